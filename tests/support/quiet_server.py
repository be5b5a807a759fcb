"""`shellrunner` that writes nothing to its history by itself, once it has started: no check, index or generation.

So a sync that fails, or a count of what is written, is that of a request.
"""

from typing import Any

from shellrunner.cli import main
from shellrunner.service import health
from shellrunner.store.query import search
from shellrunner.store.sqlite.effects import generation

_NEVER = 1e6  # seconds


def be_quiet() -> None:
    """Let the server that this process becomes write nothing by itself."""
    changed: Any = health
    changed.CHECK_INTERVAL = _NEVER
    changed = search
    changed._GATHER_DELAY = _NEVER
    changed = generation
    changed._INTERVAL = _NEVER


if __name__ == "__main__":
    be_quiet()
    main()
