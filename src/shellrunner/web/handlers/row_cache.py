"""Documents as JSON, kept by what they were made from, so that what is read again is not made again.

Rows of lists, and the documents of single jobs. Owned by the app. Nothing can be out of date: a job that changed is
another key. Must not know documents.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from aiohttp import web

from shellrunner.store.pagination import ListedJob
from shellrunner.wire import json_codec

_MAX_SIZE: Final = 1 << 22  # bytes of a generation, of which there are two; enough for 1,000 rows of 2 KB
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


def document(request: web.Request, kind: Hashable, stored: ListedJob, make: Callable[[], Mapping[str, Any]]) -> bytes:
    """Return the document of a job, made by `make` unless it is kept; `kind` has all else that it depends on."""
    cache, key = request.app[ROW_CACHE], (kind, stored)
    content = cache.get(key)
    if content is None:
        content = json_codec.dumps(make())
        cache.keep(key, content)
    return content
