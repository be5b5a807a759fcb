"""Directories for tests with several users."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_directory(mode: int = 0o755) -> Iterator[Path]:
    """Yield a directory that every user may enter, unlike those of pytest; and change, by its mode."""
    made = Path(tempfile.mkdtemp(prefix="shellrunner-"))
    made.chmod(mode)
    try:
        yield made
    finally:
        shutil.rmtree(made)
