"""How much is free on the disk of a state directory, and whether that is less than a new job requires.

Used by the reserve of a history in SQLite, and by a node that runs jobs of one in PostgreSQL. Must not know either.
"""

import os
import time
from typing import Final

_MAX_AGE: Final = 0.25  # seconds for which the free space is believed


class FreeSpace:
    """The free space beside the files in a directory."""

    def __init__(self, directory: str, min_free: int) -> None:
        """`min_free`: how many bytes a new job requires; 0: it requires none."""
        self._directory, self._min_free = directory, min_free
        self._is_low = False
        self._checked = 0.0

    def is_low(self) -> bool:
        """Return whether fewer bytes are free than a new job requires."""
        if self._min_free and time.monotonic() - self._checked > _MAX_AGE:
            self._is_low = self.bytes() < self._min_free
            self._checked = time.monotonic()
        return self._is_low

    def bytes(self) -> int:
        """Return how many bytes this process may still write."""
        try:
            disk = os.statvfs(self._directory)
        except OSError:
            return 1 << 62  # the next write fails by itself, with the true reason
        return disk.f_frsize * (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail)
