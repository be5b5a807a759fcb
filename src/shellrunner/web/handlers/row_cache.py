"""Rows of lists as JSON, kept by what they were made from, so that a page that is read again is not made again.

Owned by the app. Nothing can be out of date: a job that changed is another key. Must not know documents.
"""

from collections.abc import Hashable
from typing import Final

from aiohttp import web

_MAX_SIZE: Final = 1 << 21  # bytes of a generation; there are two
_KEY_SIZE: Final = 1 << 11  # bytes that a row's key takes, about: the columns of a job
_MAX_ROW_SIZE: Final = 1 << 14


class RowCache:
    """Two generations instead of an order of use: forgetting the older one costs nothing for each row."""

    def __init__(self) -> None:
        """Start empty."""
        self._recent: dict[Hashable, bytes] = {}
        self._older: dict[Hashable, bytes] = {}
        self._size = 0

    def get(self, key: Hashable) -> bytes | None:
        """Return the row of this key, if it is kept."""
        row = self._recent.get(key)
        if row is None and (row := self._older.get(key)) is not None:
            self.keep(key, row)
        return row

    def keep(self, key: Hashable, row: bytes) -> None:
        """Keep a row, unless it is a large one."""
        if len(row) > _MAX_ROW_SIZE:
            return
        size = len(row) + _KEY_SIZE
        if self._size + size > _MAX_SIZE:
            self._older, self._recent, self._size = self._recent, {}, 0
        self._recent[key] = row
        self._size += size


ROW_CACHE: Final = web.AppKey("row_cache", RowCache)
