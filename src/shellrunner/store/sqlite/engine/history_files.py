"""Whether the open history is still the one at its path: SQLite goes on writing to files that were removed.

Owned by the writer, which asks before each commit. Knows paths, inodes and sizes; must not know what is in the files.
"""

import os
import struct
from typing import Final

# The head of `history.db-shm`, from byte 14 on: bytes of a page, frames in the log, pages of the database; in the
# host's byte order (sqlite.org/walformat.html, 2.1). The log has a head of its own, and so has each frame.
_INDEX_HEAD: Final = struct.Struct("=14xHII")
_LOG_HEAD: Final = 32
_FRAME_HEAD: Final = 24


class HistoryFiles:
    """The database and its write-ahead log, as they were when the history was opened.

    Both are held open by SQLite, so another file cannot have their inode. `history.db-shm`, the index of the log, is
    made again if its name is gone, so only what it says matters: another program may checkpoint or vacuum the history
    in order, and then both files become shorter.
    """

    def __init__(self, path: str) -> None:
        """Remember the files behind the connection that has just been opened.

        Raises:
            OSError: one of them is not there.
        """
        self._database, self._log = _OpenFile(path), _OpenFile(f"{path}-wal")
        self._database_size = 0
        self._index = os.open(f"{path}-shm", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def close(self) -> None:
        """Close the index; only after the connections, because that ends this process's locks on it (fcntl(2))."""
        os.close(self._index)

    def fault(self) -> str | None:
        """Return what happened to the files at their paths; None if they are those that are open.

        Called before each commit, so it is one stat(2) for each, a read(2), and little else.
        """
        try:
            database_size, log_size = self._database.size(), self._log.size()
        except _Gone as fault:
            return str(fault)
        page_size, frames, pages = _INDEX_HEAD.unpack(os.pread(self._index, _INDEX_HEAD.size, 0))
        page_size = 65536 if page_size == 1 else page_size
        if frames and log_size < _LOG_HEAD + frames * (_FRAME_HEAD + page_size):
            return f"{self._log.name} was truncated"
        # New pages may still be in the log, but none that were in the database once.
        if database_size < min(self._database_size, pages * page_size):
            return f"{self._database.name} was truncated"
        self._database_size = database_size
        return None


class _Gone(Exception):
    """The file at the path is not the one that was opened."""


class _OpenFile:
    """A file that was opened by its path."""

    __slots__ = ("_device", "_inode", "_path", "name")

    def __init__(self, path: str) -> None:
        self._path = path
        self.name = os.path.basename(path)
        status = os.stat(path)
        self._inode, self._device = status.st_ino, status.st_dev

    def size(self) -> int:
        """Return its size.

        Raises:
            _Gone: another file, or none, is at its path.
        """
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            raise _Gone(f"{self.name} was removed or moved") from None
        except OSError as error:
            raise _Gone(f"{self.name} cannot be reached ({error.strerror})") from None
        if status.st_ino != self._inode or status.st_dev != self._device:
            raise _Gone(f"{self.name} was replaced by another file")
        return status.st_size
