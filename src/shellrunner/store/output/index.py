"""Navigate an output by its index: which bytes of which stream are where.

Used by `reader` over an `IndexedOutput`. Must not know where bytes come from.

    index   entry 0        entry 1        entry 2              an entry: position, stream, offset, time
    output  ├── stdout ────┼── stderr ────┼── stdout ──┤       its length is implied by the next entry
    stream  0 ……………… 5        0 ……………… 4       5 ……… 8             offset: bytes of the same stream before it

Positions and the offsets of either stream never fall from entry to entry, so every search is binary, and the end of
a large output costs what its beginning does. Of a damaged index, the extents that are not confirmed are left out.

An entry agrees with the next one if, from one to the other, only the bytes of its own stream get more. That confirms
the first one's counts. It does not confirm where the next one is, and so where the extent ends, if that is of the
other stream: its offset fits wherever it claims to be. And an entry whose stream is damaged may agree with one
neighbour by chance, but not with both. So an entry is believed if both do, and an extent if both its ends are.
"""

import sys
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain, islice
from typing import Final, Protocol

from shellrunner.keeper.slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY, IndexEntry, parse_index
from shellrunner.model import Stream, Volume
from shellrunner.store.output import Extent

STREAMS: Final = (Stream.STDOUT, Stream.STDERR)  # by their numbers in the index
_BATCH_SIZE: Final = 128  # index entries read at once
_MAX_EXTENTS: Final = 4096  # extents of one answer


class HeadBytes(Protocol):
    """The beginning of an output: as much as a slot holds."""

    def index(self, count: int) -> bytes:
        """Return the first entries, up to `count` of them."""

    def data(self, position: int, limit: int) -> bytes:
        """Return at most `limit` bytes from `position` on, as far as the head goes."""

    def size(self) -> int:
        """Return how many bytes of the output the head has, at most `DATA_CAPACITY`."""


class TailBytes(Protocol):
    """The rest of an output, beyond what a slot holds."""

    def index(self, number: int, count: int) -> bytes:
        """Return up to `count` entries, starting with this number."""

    def data(self, position: int, limit: int) -> bytes:
        """Return at most `limit` bytes from `position` on."""

    def extents(self) -> list[tuple[int, int]]:
        """Return the parts of the output that are there, by the positions of their begin and end."""

    def narrow(self, stream: int | None, value: int, first: int, count: int) -> range:
        """Return in which of the entries from `first` to before `count` a search may look; see `IndexedOutput.find`.

        The last entry at or before `value` is one of these, or the one before them.
        """


class IndexedOutput:
    """The bytes of one output, and the index that describes them."""

    def __init__(self, head: HeadBytes | None, tail: TailBytes, count: int, volume: Volume, first: int = 0) -> None:
        """`count`: the number of index entries, of which those before `first` are not used.

        Without a head, all of it is in the tail.
        """
        self._head, self._tail, self.first, self.count, self.volume = head, tail, first, count, volume
        self._index = head.index(min(count, INDEX_CAPACITY)) if head is not None else b""

    def part(self, first: int, count: int, end: Volume) -> "IndexedOutput":
        """Return the part that these index entries describe, up to `end`."""
        return IndexedOutput(self._head, self._tail, count, end, first)

    def entry(self, number: int) -> IndexEntry | None:
        """Return the index entry with this number; None if it is missing."""
        found = self.entries(number, 1)
        return found[0] if found else None

    def find(self, stream: int | None, value: int) -> int:
        """Return the number of the last entry at or before `value`: a position (None), or an offset of a stream.

        If there is none, it is the number before `first`.
        """

        def measured(number: int) -> int:
            entry = self.entry(number)
            if entry is None:
                return sys.maxsize
            return entry.position if stream is None else stream_offset(entry, stream, entry.position)

        numbers = self._tail.narrow(stream, value, self.first, self.count)
        return numbers.start + bisect_right(numbers, value, key=measured) - 1

    def walk(self, number: int) -> Iterator[tuple[IndexEntry, int]]:
        """Yield extents from this entry on, each with the position of its end, as far as they are confirmed."""
        if number >= self.first:
            before = min(1, number - self.first)  # entries that are read only because they confirm the next one
            yield from islice(self._confirmed(number - before), before, None)

    def _confirmed(self, number: int) -> Iterator[tuple[IndexEntry, int]]:
        """Yield extents from this entry on, of which nothing before it confirms the first."""
        waiting: IndexEntry | None = None  # until `last`, where it ends, is confirmed
        last: IndexEntry | None = None
        for entry in chain(self.entries_from(number), (None,)):
            if last is not None:
                fits = self.agree(last, entry)
                if waiting is not None and (fits or waiting.stream == last.stream):
                    yield waiting, min(last.position, self.volume.stored)
                if not fits:
                    return
            waiting, last = last, entry
        if waiting is not None:
            yield waiting, self.volume.stored

    def entries_from(self, number: int, batch_size: int = _BATCH_SIZE) -> Iterator[IndexEntry]:
        """Yield index entries, starting with this number."""
        while batch := self.entries(number, batch_size):
            yield from batch
            number += len(batch)

    def data(self, position: int, limit: int) -> bytes:
        """Return at most `limit` bytes from `position` on."""
        if self._head is None:
            return self._tail.data(position, limit)
        head = self._head.data(position, limit) if position < DATA_CAPACITY else b""
        if len(head) < limit and position + len(head) >= DATA_CAPACITY:
            return head + self._tail.data(position + len(head), limit - len(head))
        return head

    def data_extents(self) -> list[tuple[int, int]]:
        """Return the parts of the output whose bytes are there, by the positions of their begin and end."""
        if self._head is None:
            return self._tail.extents()
        head = min(self._head.size(), self.volume.stored)
        return [(0, head), *(self._tail.extents() if self.volume.stored > DATA_CAPACITY else ())]

    def entries(self, number: int, count: int) -> list[IndexEntry]:
        """Return up to `count` index entries, starting with this number."""
        count = min(count, self.count - number)
        if count <= 0:
            return []
        if number < INDEX_CAPACITY and self._head is not None:
            return parse_index(self._index[number * ENTRY_SIZE : (number + count) * ENTRY_SIZE])
        return parse_index(self._tail.index(number, count))

    def agree(self, entry: IndexEntry, after: IndexEntry | None) -> bool:
        """Return whether an entry's counts are confirmed by the one after it; None: by the volume, as the last."""
        if after is None or after.position >= self.volume.stored:
            return self.agrees_with_end(entry)
        offset = stream_offset(entry, after.stream, after.position)
        return after.position >= entry.position and after.offset == offset

    def agrees_with_end(self, entry: IndexEntry) -> bool:
        """Return whether an entry, as the last, is confirmed by the volume."""
        stored = self.volume.stored
        return entry.position >= stored or stream_offset(entry, 0, stored) == self.volume.stdout_bytes


def stream_offset(entry: IndexEntry, stream: int, position: int) -> int:
    """Return how many bytes of `stream` precede `position`, which is inside the entry's extent or at its end."""
    if entry.stream == stream:
        return entry.offset + position - entry.position
    return entry.position - entry.offset


def read(output: IndexedOutput, position: int, limit: int) -> list[Extent]:
    """Return at most `limit` bytes in arrival order."""
    until = min(position + limit, output.volume.stored)
    found: list[tuple[IndexEntry, int, int]] = []
    for entry, end in output.walk(output.find(None, position)):
        if entry.position >= until or len(found) == _MAX_EXTENTS:
            break
        begin, stop = max(entry.position, position), min(end, until)
        if begin < stop:
            found.append((entry, begin, stop))
    if not found:
        return []
    data = output.data(position, found[-1][2] - position)
    pieces = ((entry, begin, data[begin - position : stop - position]) for entry, begin, stop in found)
    return [_extent(entry, begin, piece) for entry, begin, piece in pieces if piece]


def _extent(entry: IndexEntry, begin: int, piece: bytes) -> Extent:
    offset = entry.offset + begin - entry.position
    return Extent(begin, STREAMS[entry.stream], offset, entry.time // 1_000_000, piece)


def read_stream(output: IndexedOutput, stream: int, offset: int, limit: int) -> bytes:
    """Return at most `limit` bytes of one stream from its own `offset` on."""
    until = offset + limit
    parts: list[bytes] = []
    passed = 0
    for entry, end in output.walk(output.find(stream, offset)):
        passed += 1
        if offset >= until or entry.position >= output.volume.stored or (parts and passed > _MAX_EXTENTS):
            break
        if entry.stream != stream:
            continue
        begin = entry.position + offset - entry.offset
        stop = min(end, begin + until - offset)
        part = output.data(begin, stop - begin) if begin < stop else b""
        parts.append(part)
        offset += len(part)
        if len(part) < stop - begin:
            break
    return b"".join(parts)


def read_both(output: IndexedOutput) -> tuple[bytes, bytes] | None:
    """Return all of stdout and of stderr; None if that is not as many bytes as the volume says."""
    pieces: tuple[list[bytes], list[bytes]] = ([], [])
    for entry, end in output.walk(output.first):
        pieces[entry.stream].append(output.data(entry.position, end - entry.position))
    stdout, stderr = map(b"".join, pieces)
    is_all = (len(stdout), len(stderr)) == (output.volume.stdout_bytes, output.volume.stderr_bytes)
    return (stdout, stderr) if is_all else None


def offset_of(output: IndexedOutput, stream: int, position: int) -> int | None:
    """Return how many bytes of one stream precede `position`; None if the index does not confirm it."""
    if position in (0, output.volume.stored):
        return output.volume.stream_bytes(STREAMS[stream]) if position else 0
    for entry, end in output.walk(output.find(None, position)):
        return stream_offset(entry, stream, position) if entry.position <= position <= end else None
    return None
