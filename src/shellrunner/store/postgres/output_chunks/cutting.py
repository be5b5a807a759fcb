"""Cut an output of this host into chunks: data, and the index entries that belong to it.

Used by the sender. What is missing in the files is passed over, as `output.segments` finds it. Must not know SQL, or
where bytes come from.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from shellrunner.keeper.slot import IndexEntry
from shellrunner.model import Volume
from shellrunner.store.output.index import IndexedOutput, stream_offset
from shellrunner.store.output.segments import Segment
from shellrunner.store.postgres.output_chunks.chunk_rows import OutputChunk, Sent

MAX_SIZE: Final = 1 << 18  # bytes of data in a chunk
MAX_ENTRIES: Final = 4096  # index entries in a chunk


class DamagedIndexError(Exception):
    """Index entries contradict each other: only a thorough survey says what can be sent."""


def whole(output: IndexedOutput) -> list[Segment]:
    """Return an output of which nothing is missing as the one segment that it is."""
    return [Segment(0, output.count, Volume(), output.volume)]


def next_chunk(output: IndexedOutput, segments: Sequence[Segment], sent: Sent) -> OutputChunk | None:
    """Return the chunk that follows what was sent; None if there is nothing more, or it cannot be read now.

    Raises:
        DamagedIndexError: the index is not as the segments say.
    """
    number = bisect_right(segments, sent.volume.stored, key=lambda segment: segment.end.stored)
    if number == len(segments):
        return None
    segment = segments[number]
    begin = max(sent.volume.stored, segment.begin.stored)
    part = output.part(segment.first, segment.stop, segment.end)
    covering = part.find(None, begin)
    before = part.entry(covering) if covering >= segment.first else None
    if before is None:
        raise DamagedIndexError
    first = max(sent.entries, covering)
    entries, following, end = _entries(part, first, min(begin + MAX_SIZE, segment.end.stored))
    last = entries[-1] if entries else before
    if end <= begin or not _agree(part, before if first > covering else None, entries, following):
        raise DamagedIndexError
    data = output.data(begin, end - begin)
    if len(data) < end - begin:
        return None  # it was cut a moment ago: the next survey shows it
    stdout = stream_offset(before, 0, begin)
    return OutputChunk(
        position=begin,
        stdout=stdout,
        stdout_length=stream_offset(last, 0, end) - stdout,
        missing=sent.missing + begin - sent.volume.stored,
        first_entry=first,
        entries=b"".join(entry.pack() for entry in entries),
        data=data,
    )


def _entries(part: IndexedOutput, first: int, end: int) -> tuple[list[IndexEntry], IndexEntry | None, int]:
    """Return the entries of a chunk that ends at `end` at most, the entry after them, and where the chunk ends."""
    entries: list[IndexEntry] = []
    for entry in part.entries_from(first):
        if entry.position >= end:
            return entries, entry, end
        if len(entries) == MAX_ENTRIES:
            return entries, entry, entry.position
        entries.append(entry)
    return entries, None, end


def _agree(
    part: IndexedOutput, before: IndexEntry | None, entries: list[IndexEntry], following: IndexEntry | None
) -> bool:
    chain = [*([before] if before is not None else ()), *entries]
    return all(part.agree(one, other) for one, other in pairwise(chain)) and part.agree(chain[-1], following)
