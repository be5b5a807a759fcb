"""What is tried against the front door, and what must come of it: nothing."""

import pytest

pytest.register_assert_rewrite("tests.attacks.assault")
