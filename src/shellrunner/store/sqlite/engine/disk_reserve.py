"""Disk space reserved for a full disk: even DELETE needs some, and so does recording the end of a running job.

Owned by the writer, used on its thread only. Knows one file, and how much space is free beside it.
"""

import errno
import os
from contextlib import suppress
from typing import Final

from shellrunner.store.state_files.free_space import FreeSpace

SIZE: Final = 4 * 1024 * 1024
_SLICE: Final = 512 * 1024  # given up at once: another program may take what is free, but not what is still reserved
_MARGIN: Final = 512 * 1024  # that must be free beside it, so that reserving it again does not fill the disk


class DiskReserve:
    """The ballast, a file whose only purpose is to be truncated when the disk is full; and the free space beside it.

    is_whole: whether all of the space is reserved. From the first slice that is given up until it is reserved again,
    only units that free space, or record an end, may write.
    """

    def __init__(self, path: str, min_free: int = 0) -> None:
        """Reserve the space if the disk has it. No job is accepted while fewer than `min_free` bytes are free."""
        self.is_whole = False
        self._path = path
        self._disk = FreeSpace(os.path.dirname(path), min_free)
        try:
            self._reserved = os.stat(path).st_size
        except OSError:
            self._reserved = 0
        self._allocate()

    def is_low(self) -> bool:
        """Return whether fewer bytes are free than a new job requires."""
        return self._disk.is_low()

    def is_disk_full(self) -> bool:
        """Return whether the disk has hardly any space."""
        return self._disk.bytes() < _MARGIN

    def restore(self) -> bool:
        """Reserve all of the space again if the disk has it; return whether it is reserved."""
        if not self.is_whole and self._disk.bytes() >= SIZE - self._reserved + _MARGIN:
            self._allocate()
        return self.is_whole

    def release(self) -> bool:
        """Free a slice of the space; return false if none is left."""
        if not self._reserved:
            return False
        self.is_whole = False
        self._reserved = max(self._reserved - _SLICE, 0)
        try:
            os.truncate(self._path, self._reserved)
        except OSError:
            self._reserved = 0
            return False
        return True

    def _allocate(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return  # nor can the history be written
        try:
            os.posix_fallocate(fd, 0, SIZE)
            self._reserved = SIZE
            self.is_whole = True
        except OSError as error:
            os.ftruncate(fd, self._reserved)
            # On a file system that cannot reserve space, the service works without.
            self.is_whole = error.errno not in (errno.ENOSPC, errno.EDQUOT)
        finally:
            os.close(fd)


def make_room(path: str) -> None:
    """Give up a part of the ballast at `path` if a history beside it could not be opened for lack of space."""
    if is_full(os.path.dirname(path)):
        with suppress(OSError):
            os.truncate(path, max(os.stat(path).st_size - 2 * _SLICE, 0))


def is_full(directory: str) -> bool:
    """Return whether less is free than opening a history takes."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _MARGIN
