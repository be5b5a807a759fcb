"""Import the back end for PostgreSQL, whose packages not every installation has: they are the extra `cluster`.

Used where config has a URL, by the composition root and `shellrunner migrate`. Must not know the back end itself, so
that a program for one host imports none of it.
"""

import importlib
from typing import Any, Final

from shellrunner.errors import ConfigError

_PACKAGE: Final = "shellrunner.store.postgres"
_INSTALL: Final = "pip install 'shellrunner[cluster]'"


def import_postgres(module: str) -> Any:
    """Import a module of the back end.

    Raises:
        ConfigError: a package that it needs is missing; the text says how to install it.
    """
    try:
        return importlib.import_module(f"{_PACKAGE}.{module}")
    except ImportError as error:
        if (error.name or "").startswith("shellrunner"):
            raise
        raise ConfigError(f"store.url requires packages that are not installed ({error}): {_INSTALL}") from None
