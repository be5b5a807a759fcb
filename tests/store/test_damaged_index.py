"""A damaged index, whatever its entries say: what is read by it is true, and what is not read is a gap."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress

import pytest

from shellrunner.keeper.slot import ENTRY_SIZE, IndexEntry, parse_index
from shellrunner.model import Volume
from shellrunner.store.output import Gap, index, segments
from shellrunner.store.output.index import STREAMS, IndexedOutput
from shellrunner.store.output.segments import Segment

TIME = 1_000_000_000


@dataclass
class MemoryHead:
    """All of a short output, in memory."""

    entries: bytes
    content: bytes

    def index(self, count: int) -> bytes:
        return self.entries[: count * ENTRY_SIZE]

    def data(self, position: int, limit: int) -> bytes:
        return self.content[position : position + limit]

    def size(self) -> int:
        return len(self.content)


class NoTail:
    """The rest of a short output."""

    def index(self, number: int, count: int) -> bytes:
        return b""

    def data(self, position: int, limit: int) -> bytes:
        return b""

    def extents(self) -> list[tuple[int, int]]:
        return []

    def narrow(self, stream: int | None, value: int, first: int, count: int) -> range:
        return range(first, count)


class ShortOutput:
    """What a command wrote in a few pieces, and what is read of it by a damaged index."""

    def __init__(self, seed: int, count: int, most: int, share_same: float) -> None:
        """`most`: bytes of a piece; `share_same`: of the pieces, those of the stream of the one before."""
        chance = random.Random(seed)
        stream, self.who = chance.randint(0, 1), b""
        entries: list[IndexEntry] = []
        for _ in range(count):
            entries.append(IndexEntry(len(self.who), stream, self.who.count(stream), TIME))
            self.who += bytes([stream]) * chance.randint(1, most)
            stream ^= chance.random() >= share_same
        self.index = b"".join(entry.pack() for entry in entries)
        self.content = bytes(number % 251 for number in range(len(self.who)))
        self.by_stream = [
            bytes(compress(self.content, (one == number for one in self.who))) for number in range(len(STREAMS))
        ]
        # How many bytes of each stream precede a position.
        self.before = [list(accumulate((one == number for one in self.who), initial=0)) for number in (0, 1)]
        self.volume = Volume(self.who.count(0), self.who.count(1))

    def check(self, damaged: bytes) -> Sequence[Gap]:
        """Check all reads by an index, with a search for gaps and without; return the gaps."""
        head = MemoryHead(damaged, self.content)
        output = IndexedOutput(head, NoTail(), len(damaged) // ENTRY_SIZE, self.volume)
        found = segments.survey(output, thorough=True)
        gaps = segments.gaps(found, self.volume)
        for place in (place for gap in gaps for place in (gap.begin, gap.end)):
            assert (place.stdout_bytes, place.stderr_bytes) == tuple(each[place.stored] for each in self.before)
        missing = sum(gap.end.stored - gap.begin.stored for gap in gaps)
        assert self.read(output, found, 0) == len(self.who) - missing
        for position in (0, len(self.who) // 3, len(self.who) - 2):
            self.read(output, None, position)
        self.check_streams(output, found, gaps)
        return gaps

    def read(self, output: IndexedOutput, found: Sequence[Segment] | None, position: int) -> int:
        """Read from a position to the end, or to where nothing is read; return how many bytes are read."""
        count = 0
        while True:
            limit = 30
            extents = (
                index.read(output, position, limit)
                if found is None
                else segments.read(output, found, position, limit)
            )
            if not extents:
                return count
            for extent in extents:
                number, position = STREAMS.index(extent.stream), extent.position + len(extent.data)
                assert extent.data == self.content[extent.position : position]
                assert set(self.who[extent.position : position]) == {number}
                assert extent.offset == self.before[number][extent.position]
                count += len(extent.data)

    def check_streams(self, output: IndexedOutput, found: Sequence[Segment] | None, gaps: Sequence[Gap]) -> None:
        """Check what is read of each stream."""
        for number, stream in enumerate(STREAMS):
            whole = self.by_stream[number]
            for offset in (0, len(whole) // 2):
                part = index.read_stream(output, number, offset, 30)
                assert part == whole[offset : offset + len(part)]
            if found is None:
                continue
            ends = [0, *(gap.end.stream_bytes(stream) for gap in gaps)]
            begins = [*(gap.begin.stream_bytes(stream) for gap in gaps), len(whole)]
            for begin, end in zip(ends, begins, strict=True):
                assert segments.read_stream(output, found, number, begin, end - begin) == whole[begin:end]


SHORT_OUTPUTS = [(1, 9, 3, 0.0), (2, 12, 5, 0.3), (3, 8, 3, 0.0), (4, 10, 4, 0.6), (5, 3, 6, 0.0), (6, 6, 6, 1.0)]


def with_one_false_field(entry: IndexEntry, most: int) -> Iterator[IndexEntry]:
    """Yield an entry with each field false in every way, up to and above `most`."""
    for value in (*range(most + 1), most + 200, (1 << 63) - 1):
        yield entry._replace(position=value)
        yield entry._replace(offset=value)
    yield entry._replace(stream=1 - entry.stream)
    yield entry._replace(stream=1 - entry.stream, offset=0)


def overwritten(content: bytes) -> Iterator[bytes]:
    """Yield an index with some bytes at each place overwritten, or cut there."""
    chance = random.Random(0)
    for at in range(0, len(content), 3):
        for length in (8, ENTRY_SIZE, 70):
            for replacement in (bytes(length), b"\xff" * length, chance.randbytes(length)):
                yield (content[:at] + replacement + content[at + length :])[: len(content)]
        yield content[:at]


@pytest.mark.heavy
@pytest.mark.parametrize("shape", SHORT_OUTPUTS)
def test_c6_whatever_an_index_entry_says_nothing_is_made_up(shape: tuple[int, int, int, float]) -> None:
    """C6: no byte is delivered as what it is not; an entry costs at most two extents before it and one behind."""
    written = ShortOutput(*shape)
    assert written.check(written.index) == []
    assert written.check(written.index + IndexEntry(1, 1, 0, TIME).pack()) == []
    true = parse_index(written.index)
    begins = [0, 0, *(entry.position for entry in true)]
    ends = [*begins[4:], *[len(written.who)] * 2]
    for number, entry in enumerate(true):
        for false in with_one_false_field(entry, len(written.who)):
            entries = [*true[:number], false, *true[number + 1 :]]
            for gap in written.check(b"".join(each.pack() for each in entries)):
                assert begins[number] <= gap.begin.stored < gap.end.stored <= ends[number]


@pytest.mark.heavy
@pytest.mark.parametrize("shape", SHORT_OUTPUTS)
def test_c6_whatever_overwrites_an_index_nothing_is_made_up(shape: tuple[int, int, int, float]) -> None:
    """C6: with any part of an index overwritten or cut off, what is delivered is true, and what is missing counts."""
    written = ShortOutput(*shape)
    for damaged in overwritten(written.index):
        written.check(damaged)
