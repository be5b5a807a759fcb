"""The tests; what they share is in `tests.support`."""

import pytest

pytest.register_assert_rewrite("tests.support")
