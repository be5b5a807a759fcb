"""Whether the open history is still the one at its path: SQLite goes on writing to files that were removed.

Owned by the writer, which asks before each commit. Knows paths, inodes and sizes; must not know what is in the files.
"""

import os
from typing import Final

WAL_SIZE_LIMIT: Final = 16 * 1024 * 1024  # bytes to which SQLite itself may cut the write-ahead log (`db_thread`)


class HistoryFiles:
    """The database and its write-ahead log, as they were when the history was opened.

    Both are held open by SQLite, so another file cannot have their inode. `history.db-shm` does not matter: it is
    mapped, and made again from the log.
    """

    def __init__(self, path: str) -> None:
        """Remember the files behind the connection that has just been opened.

        Raises:
            OSError: one of them is not there.
        """
        # The database only grows.
        self._files = (_OpenFile(path, 1 << 62), _OpenFile(f"{path}-wal", WAL_SIZE_LIMIT))

    def fault(self) -> str | None:
        """Return what happened to the files at their paths; None if they are those that are open.

        Called before each commit, so it is one stat(2) for each, and little else.
        """
        for file in self._files:
            try:
                status = os.stat(file.path)
            except FileNotFoundError:
                return f"{file.name} was removed or moved"
            except OSError as error:
                return f"{file.name} cannot be reached ({error.strerror})"
            if status.st_ino != file.inode or status.st_dev != file.device:
                return f"{file.name} was replaced by another file"
            if status.st_size != file.min_size:
                if status.st_size < file.min_size:
                    return f"{file.name} was truncated"
                file.min_size = min(status.st_size, file.cut_to)
        return None


class _OpenFile:
    """A file that was opened by its path, and never has less than `min_size` bytes; SQLite may cut it to `cut_to`."""

    __slots__ = ("cut_to", "device", "inode", "min_size", "name", "path")

    def __init__(self, path: str, cut_to: int) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.cut_to = cut_to
        status = os.stat(path)
        self.inode, self.device = status.st_ino, status.st_dev
        self.min_size = min(status.st_size, cut_to)
