"""Check which parts of an output are there, and read these only: its files may have been cut, lost or damaged.

Used by `reader` over an `IndexedOutput`. Must not know where bytes come from.

    recorded   0 ────────────────────────────────────── volume.stored
    index      ├ agree ─┤ ├ agree ──────────────────┤   chains of entries that confirm each other
    files      ├───────────────────┤       ├────────┤   bytes that are there
    segments   ├────────┤ ├────────┤       ├────────┤   what is delivered; between them are gaps

The first and the last entry of a chain have one neighbour that agrees, which may be by chance (see `index`), so
neither is believed: a damaged entry costs its own extent, up to two before it and one behind it. As a rule only the
sizes of the files and the last entry are compared with the volume: that costs a few system calls, and finds whatever
was cut or lost.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from shellrunner.keeper.slot import IndexEntry
from shellrunner.model import Stream, Volume
from shellrunner.store.output import Extent, Gap, index
from shellrunner.store.output.index import STREAMS, IndexedOutput, stream_offset

_BATCH_SIZE: Final = 4096  # index entries read at once


class Segment(NamedTuple):
    """A part that is there, described by index entries from `first` on; the last is the one before `stop`."""

    first: int
    stop: int
    begin: Volume
    end: Volume


def survey(output: IndexedOutput, *, thorough: bool) -> Sequence[Segment] | None:
    """Return the parts of an output that are there; None if that is everything, just as its index says."""
    parts = output.data_extents()
    if not thorough and _seems_whole(output, parts):
        return None
    pieces = [
        piece for chain in _chains(output) for begin, end in parts if (piece := _cut(output, chain, begin, end))
    ]
    found = _in_order(pieces, output.volume)
    # Nothing may be missing although entries were added: these must not be read.
    uses_all = all((piece.first, piece.stop) == (output.first, output.count) for piece in found)
    return None if uses_all and not gaps(found, output.volume) else found


def read_both(output: IndexedOutput) -> tuple[bytes, bytes] | None:
    """Return all of stdout and of stderr, if everything is there just as the index says; else None."""
    return index.read_both(output) if _seems_whole(output, output.data_extents()) else None


def gaps(segments: Sequence[Segment] | None, volume: Volume) -> list[Gap]:
    """Return what is missing between the segments and at the end."""
    if segments is None:
        return []
    ends = [Volume(), *(segment.end for segment in segments)]
    begins = [*(segment.begin for segment in segments), volume]
    return [Gap(end, begin) for end, begin in zip(ends, begins, strict=True) if end.stored < begin.stored]


def read(output: IndexedOutput, segments: Sequence[Segment], position: int, limit: int) -> list[Extent]:
    """Return at most `limit` bytes in arrival order, from `position` or behind the gap there."""
    number = bisect_right(segments, position, key=lambda segment: segment.end.stored)
    if number == len(segments):
        return []
    segment = segments[number]
    begin = max(position, segment.begin.stored)
    return index.read(_part(output, segment), begin, min(limit, segment.end.stored - begin))


def read_stream(output: IndexedOutput, segments: Sequence[Segment], stream: int, offset: int, limit: int) -> bytes:
    """Return at most `limit` bytes of one stream from `offset` on; empty where they are missing."""
    name = STREAMS[stream]
    number = bisect_right(segments, offset, key=lambda segment: segment.end.stream_bytes(name))
    if number == len(segments) or offset < segments[number].begin.stream_bytes(name):
        return b""
    segment = segments[number]
    limit = min(limit, segment.end.stream_bytes(name) - offset)
    return index.read_stream(_part(output, segment), stream, offset, limit)


def offset_of(output: IndexedOutput, segments: Sequence[Segment], stream: int, position: int) -> int | None:
    """Return how many bytes of one stream precede `position`; None within a gap."""
    if position in (0, output.volume.stored):
        return index.offset_of(output, stream, position)
    number = bisect_left(segments, position, key=lambda segment: segment.end.stored)
    if number == len(segments) or position < segments[number].begin.stored:
        return None
    return index.offset_of(_part(output, segments[number]), stream, position)


def _part(output: IndexedOutput, segment: Segment) -> IndexedOutput:
    return output.part(segment.first, segment.stop, segment.end)


def _seems_whole(output: IndexedOutput, parts: Sequence[tuple[int, int]]) -> bool:
    reached = 0
    for begin, end in parts:
        if begin > reached:
            return False
        reached = max(reached, end)
    if reached < output.volume.stored:
        return False
    last = output.entry(output.count - 1)
    return output.volume.stored == 0 or (last is not None and output.agrees_with_end(last))


class _Chain(NamedTuple):
    """Entries that confirm each other, and the part of the output that they describe for certain."""

    first: int
    stop: int
    begin: Volume
    end: Volume


def _chains(output: IndexedOutput) -> list[_Chain]:
    """Return what the runs of entries that confirm each other describe for certain, in order."""
    found: list[_Chain] = []
    is_last = True
    for first, stop, last in reversed(list(_runs(output))):
        reaches_end = output.agrees_with_end(last)
        # The last entry of an earlier run fits the end of the output by chance.
        chain = _certain(output, first, stop, output.volume if reaches_end and is_last else None)
        if chain is not None and chain.begin.stored < chain.end.stored:
            found.append(chain)
        is_last = is_last and not found and not reaches_end
    return found[::-1]


def _runs(output: IndexedOutput) -> Iterator[tuple[int, int, IndexEntry]]:
    """Yield the longest runs of entries of which each is confirmed by the next, and the last entry of each.

    A single entry is one if it is confirmed by the volume.
    """
    first, last = output.first, None
    number = first - 1
    for number, entry in enumerate(output.entries_from(first, _BATCH_SIZE), first):
        is_beyond = entry.position >= output.volume.stored
        if last is not None and (is_beyond or not output.agree(last, entry)):
            if number - first > 1 or output.agrees_with_end(last):
                yield first, number, last
            last = None
        if not is_beyond:
            first = number if last is None else first
            last = entry
    if last is not None:
        yield first, number + 1, last


def _certain(output: IndexedOutput, first: int, stop: int, end: Volume | None) -> _Chain | None:
    """Return what a run describes for certain: between entries that are confirmed from both sides, or up to `end`."""
    head = output.entry(first)
    if head is not None and not (first == head.position == head.offset == 0):
        first += 1
        head = output.entry(first)
    before, last = output.entry(max(first, stop - 2)), output.entry(stop - 1)
    if head is None or before is None or last is None or first >= stop:
        return None
    if end is None:
        # Behind the other stream's, an entry fits wherever it claims to be, so the end of that extent is uncertain.
        certain = last if before.stream == last.stream else before
        end = place(certain, certain.position)
    return _Chain(first, stop, place(head, head.position), end)


def place(entry: IndexEntry, position: int) -> Volume:
    """Return the volume before `position`, which is in the entry's extent."""
    stdout = stream_offset(entry, 0, position)
    return Volume(stdout, position - stdout)


def _cut(output: IndexedOutput, chain: _Chain, begin: int, end: int) -> Segment | None:
    """Return the part of a chain between two positions."""
    begin = max(begin, chain.begin.stored)
    end = min(end, chain.end.stored, output.volume.stored)
    if begin >= end:
        return None
    part = output.part(chain.first, chain.stop, chain.end)
    return Segment(chain.first, chain.stop, _place(part, chain, begin), _place(part, chain, end))


def _place(part: IndexedOutput, chain: _Chain, position: int) -> Volume:
    if position == chain.end.stored:
        return Volume(chain.end.stdout_bytes, chain.end.stderr_bytes)
    entry = part.entry(part.find(None, position))
    return chain.begin if entry is None else place(entry, position)


def _in_order(found: Sequence[Segment], volume: Volume) -> list[Segment]:
    """Return those of the segments that follow each other in both streams: garbage may confirm itself by chance."""
    kept: list[Segment] = []
    reached = Volume()
    for segment in found:
        if _rises(reached, segment.begin, segment.end, volume):
            kept.append(segment)
            reached = segment.end
    return kept


def _rises(*volumes: Volume) -> bool:
    return all(
        one.stream_bytes(stream) <= next_one.stream_bytes(stream)
        for one, next_one in pairwise(volumes)
        for stream in Stream
    )
