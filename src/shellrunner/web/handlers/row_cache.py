"""A cache of rendered JSON: rows of lists and documents of single jobs, by the database row they were made from.

Owned by the app. No entry can be stale, so none is ever invalidated: a job that changed is another key. Must not know
documents.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, NamedTuple

from aiohttp import web

from shellrunner.store.pagination import ListedJob
from shellrunner.wire import json_codec

_MAX_SIZE: Final = 1 << 22  # bytes of a generation, of which there are two; enough for 1,000 rows of 2 KB
_MAX_ROW_SIZE: Final = 1 << 14  # with its key


class RowKey(NamedTuple):
    """What a row was made from: the job as it was read, and `kind` for all else that it depends on."""

    kind: Hashable
    job: ListedJob


class RowCache:
    """A cache with two generations instead of least recently used: evicting the older one costs nothing per row."""

    def __init__(self) -> None:
        """Start empty."""
        self._recent: dict[RowKey, bytes] = {}
        self._older: dict[RowKey, bytes] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes that were added since the last eviction."""
        return self._size

    def get(self, key: RowKey) -> bytes | None:
        """Return the row of this key, or None if it is not cached."""
        row = self._recent.get(key)
        if row is None and (row := self._older.get(key)) is not None:
            self.put(key, row)
        return row

    def put(self, key: RowKey, row: bytes) -> None:
        """Cache a row, unless it is large with its key: a short status may have a job with a long specification."""
        size = len(row) + key.job.size
        if size > _MAX_ROW_SIZE:
            return
        if self._size + size > _MAX_SIZE:
            self._older, self._recent, self._size = self._recent, {}, 0
        self._recent[key] = row
        self._size += size


ROW_CACHE: Final = web.AppKey("row_cache", RowCache)


def document(request: web.Request, kind: Hashable, stored: ListedJob, make: Callable[[], Mapping[str, Any]]) -> bytes:
    """Return the document of a job as JSON, cached or made by `make`; `kind` has all else that it depends on."""
    cache, key = request.app[ROW_CACHE], RowKey(kind, stored)
    content = cache.get(key)
    if content is None:
        content = json_codec.dumps(make())
        cache.put(key, content)
    return content
