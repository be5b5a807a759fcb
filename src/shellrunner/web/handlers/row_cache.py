"""Documents as JSON, kept by what they were made from, so that what is read again is not made again.

Rows of lists, and the documents of single jobs. Owned by the app. Nothing can be out of date: a job that changed is
another key. Must not know documents.
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
    """Two generations instead of an order of use: forgetting the older one costs nothing for each row."""

    def __init__(self) -> None:
        """Start empty."""
        self._recent: dict[RowKey, bytes] = {}
        self._older: dict[RowKey, bytes] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """How many bytes were kept since older ones were last forgotten."""
        return self._size

    def get(self, key: RowKey) -> bytes | None:
        """Return the row of this key, if it is kept."""
        row = self._recent.get(key)
        if row is None and (row := self._older.get(key)) is not None:
            self.keep(key, row)
        return row

    def keep(self, key: RowKey, row: bytes) -> None:
        """Keep a row, unless it is a large one: a short status may be of a job with a long specification."""
        size = len(row) + key.job.size
        if size > _MAX_ROW_SIZE:
            return
        if self._size + size > _MAX_SIZE:
            self._older, self._recent, self._size = self._recent, {}, 0
        self._recent[key] = row
        self._size += size


ROW_CACHE: Final = web.AppKey("row_cache", RowCache)


def document(request: web.Request, kind: Hashable, stored: ListedJob, make: Callable[[], Mapping[str, Any]]) -> bytes:
    """Return the document of a job, made by `make` unless it is kept; `kind` has all else that it depends on."""
    cache, key = request.app[ROW_CACHE], RowKey(kind, stored)
    content = cache.get(key)
    if content is None:
        content = json_codec.dumps(make())
        cache.keep(key, content)
    return content
