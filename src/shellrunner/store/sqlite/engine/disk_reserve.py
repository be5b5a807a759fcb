"""Disk space reserved for a full disk: even DELETE needs some, and so does recording the end of a running job.

Owned by the writer, used on its thread only. Knows one file.
"""

import os
from typing import Final

_SIZE: Final = 4 * 1024 * 1024


class Ballast:
    """A file whose only purpose is to be truncated when the disk is full."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._allocated = False
        self.restore()

    def restore(self) -> None:
        """Allocate the space again, if the disk has it."""
        if self._allocated:
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, _SIZE)
            self._allocated = True
        except OSError:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def release(self) -> bool:
        """Free the space; return false if that was done before."""
        if not self._allocated:
            return False
        self._allocated = False
        try:
            os.truncate(self._path, 0)
        except OSError:
            return False
        return True
