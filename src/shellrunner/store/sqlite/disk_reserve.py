"""Room kept for the day the disk is full: even DELETE needs some, and so does the end of a running job.

Owned by the writer, used on its thread only. Knows one file.
"""

import os
from typing import Final

_SIZE: Final = 4 * 1024 * 1024


class Ballast:
    """A file that is there to be given up."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._here = False
        self.restore()

    def restore(self) -> None:
        """Take the room again, if there is any."""
        if self._here:
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, _SIZE)
            self._here = True
        except OSError:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def give_up(self) -> bool:
        """Free the room; false if that was done before."""
        if not self._here:
            return False
        self._here = False
        try:
            os.truncate(self._path, 0)
        except OSError:
            return False
        return True
