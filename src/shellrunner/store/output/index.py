"""Finding one's way in an output by its index: which bytes of which stream lie where.

Pure reading of a `IndexedOutput`, by binary search, so the end of a large output costs what its beginning does.
An index is believed as far as its counts agree; what a damaged one does not vouch for is not there.
"""

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from shellrunner.keeper.slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY, IndexEntry, parse_index
from shellrunner.model import Stream, Volume
from shellrunner.store import Extent
from shellrunner.store.output.spill import Spill

STREAMS: Final = (Stream.STDOUT, Stream.STDERR)
_CHUNK = 128  # index entries read at once
_MOST = 4096  # extents of one answer


class HeadBytes(Protocol):
    """The beginning of an output: in a slot, or in its row."""

    def index(self, count: int) -> bytes:
        """The first entries, up to `count` of them."""

    def data(self, position: int, limit: int) -> bytes:
        """Bytes from `position` on, as far as they are here."""


class IndexedOutput:
    """Where the bytes of one output lie: the head, then the spill."""

    def __init__(self, head: HeadBytes, spill: Spill, count: int, volume: Volume) -> None:
        self._head, self._spill, self.count, self.volume = head, spill, count, volume
        self._index = head.index(min(count, INDEX_CAPACITY))

    def entry(self, number: int) -> IndexEntry | None:
        """The index entry with this number, if it is there."""
        found = self._entries(number, 1)
        return found[0] if found else None

    def find(self, measure: Callable[[IndexEntry], int], value: int) -> int:
        """The number of the last entry whose measure, which never falls, is at most `value`; -1 if there is none."""

        def of(number: int) -> int:
            entry = self.entry(number)
            return sys.maxsize if entry is None else measure(entry)

        return bisect_right(range(self.count), value, key=of) - 1

    def walk(self, number: int) -> Iterator[tuple[IndexEntry, int]]:
        """Extents from this entry on, each with the position where it ends."""
        chunk = self._entries(number, _CHUNK) if number >= 0 else []
        while chunk:
            number += len(chunk)
            following = self._entries(number, _CHUNK)
            for entry, after in zip(chunk, [*chunk[1:], *following[:1]], strict=False):
                if not self._agree(entry, after):
                    return
                yield entry, min(after.position, self.volume.stored)
            if not following and self._agree_at_end(chunk[-1]):
                yield chunk[-1], self.volume.stored
            chunk = following

    def data(self, position: int, limit: int) -> bytes:
        """Output from `position` on."""
        here = self._head.data(position, limit) if position < DATA_CAPACITY else b""
        if len(here) < limit and position + len(here) >= DATA_CAPACITY:
            return here + self._spill.data(position + len(here), limit - len(here))
        return here

    def _entries(self, number: int, count: int) -> list[IndexEntry]:
        count = min(count, self.count - number)
        if count <= 0:
            return []
        if number < INDEX_CAPACITY:
            return parse_index(self._index[number * ENTRY_SIZE : (number + count) * ENTRY_SIZE])
        return parse_index(self._spill.index(number, count))

    def _agree(self, entry: IndexEntry, after: IndexEntry) -> bool:
        if after.position >= self.volume.stored:
            return self._agree_at_end(entry)
        return after.position >= entry.position and after.offset == _own(entry, after.stream, after.position)

    def _agree_at_end(self, entry: IndexEntry) -> bool:
        stored = self.volume.stored
        return entry.position >= stored or _own(entry, 0, stored) == self.volume.stdout_bytes


def _own(entry: IndexEntry, stream: int, position: int) -> int:
    """How many bytes of `stream` lie before `position`, which is inside the entry's extent or at its end."""
    if entry.stream == stream:
        return entry.offset + position - entry.position
    return entry.position - entry.offset


def read(place: IndexedOutput, position: int, limit: int) -> list[Extent]:
    """At most `limit` bytes in arrival order."""
    until = min(position + limit, place.volume.stored)
    found: list[tuple[IndexEntry, int, int]] = []
    for entry, end in place.walk(place.find(lambda entry: entry.position, position)):
        if entry.position >= until or len(found) == _MOST:
            break
        begin, stop = max(entry.position, position), min(end, until)
        if begin < stop:
            found.append((entry, begin, stop))
    if not found:
        return []
    data = place.data(position, found[-1][2] - position)
    pieces = ((entry, begin, data[begin - position : stop - position]) for entry, begin, stop in found)
    return [_extent(entry, begin, piece) for entry, begin, piece in pieces if piece]


def _extent(entry: IndexEntry, begin: int, piece: bytes) -> Extent:
    offset = entry.offset + begin - entry.position
    return Extent(begin, STREAMS[entry.stream], offset, entry.time // 1_000_000, piece)


def read_stream(place: IndexedOutput, stream: int, offset: int, limit: int) -> bytes:
    """At most `limit` bytes of one stream from its own `offset` on."""
    until = offset + limit
    parts: list[bytes] = []
    passed = 0
    for entry, end in place.walk(place.find(lambda entry: _own(entry, stream, entry.position), offset)):
        passed += 1
        if offset >= until or entry.position >= place.volume.stored or (parts and passed > _MOST):
            break
        if entry.stream != stream:
            continue
        begin = entry.position + offset - entry.offset
        stop = min(end, begin + until - offset)
        part = place.data(begin, stop - begin) if begin < stop else b""
        parts.append(part)
        offset += len(part)
        if len(part) < stop - begin:
            break
    return b"".join(parts)


def offset_of(place: IndexedOutput, stream: int, position: int) -> int:
    """How many bytes of one stream lie before `position`."""
    entry = place.entry(place.find(lambda entry: entry.position, position))
    return 0 if entry is None else _own(entry, stream, position)


__all__ = ["STREAMS", "HeadBytes", "IndexedOutput", "offset_of", "read", "read_stream"]
