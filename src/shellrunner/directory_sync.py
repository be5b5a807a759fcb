"""Making the names in a directory durable: a file that was synced may be lost with its name (fsync(2))."""

import os


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable. Blocking.

    Raises:
        OSError: it cannot be opened or synced.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
