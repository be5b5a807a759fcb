"""How a configuration is refused."""

from typing import Any

import pytest

from shellrunner.config import load
from shellrunner.errors import ConfigError


def refusal(path: Any = None, **overrides: Any) -> Any:
    """Return the lines with which a configuration is refused."""
    with pytest.raises(ConfigError) as refused:
        load(path, **overrides)
    return refused.value.detail.splitlines()
