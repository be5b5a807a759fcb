"""What a simulated command wrote, and a check of what is read of it in every way."""

import copy
import random
from itertools import compress

from shellrunner.keeper.recorder import Recorder
from shellrunner.model import Stream
from shellrunner.store import Output
from shellrunner.store.output.present import PresentBytes, measure, without

STREAMS = (Stream.STDOUT, Stream.STDERR)


class Written:
    """What a command wrote, no byte of which is zero, and who wrote each byte."""

    def __init__(self, seed: int, size: tuple[int, int], share: float) -> None:
        chance, (count, most) = random.Random(seed), size
        self.pieces = [
            (int(chance.random() < share), chance.randbytes(chance.randint(1, most)).replace(b"\0", b"\1"))
            for _ in range(count)
        ]
        self.all = b"".join(data for _, data in self.pieces)
        self.who = b"".join(bytes([stream]) * len(data) for stream, data in self.pieces)

    def __getitem__(self, pieces: slice) -> "Written":
        """Return some of it, as if nothing else had been written."""
        part = copy.copy(self)
        part.pieces = self.pieces[pieces]
        part.all = b"".join(data for _, data in part.pieces)
        part.who = b"".join(bytes([stream]) * len(data) for stream, data in part.pieces)
        return part

    def store(self, recorder: Recorder, first: int = 0, last: int | None = None) -> None:
        """Let a keeper store some of it."""
        for stream, data in self.pieces[first:last]:
            recorder.store(stream, data)

    async def check(self, output: Output, *, thorough: bool) -> int:
        """Check that what is delivered is true and what is not is a gap; return how much is missing."""
        gaps = await output.gaps(thorough=thorough)
        stored = output.volume.stored  # a prefix: a keeper stores nothing behind a cut that it sees
        assert stored + output.volume.dropped == len(self.all)
        missing = bytearray(stored)
        for gap in gaps:
            assert gap.begin.stored < gap.end.stored
            missing[gap.begin.stored : gap.end.stored] = b"\1" * (gap.end.stored - gap.begin.stored)
            for number, stream in enumerate(STREAMS):
                for place in (gap.begin, gap.end):
                    count = self.who[: place.stored].count(number)
                    assert place.stream_bytes(stream) == count
                    assert await output.offset_of(stream, place.stored) == count
                assert gap.end.stored - gap.begin.stored == 1 or (
                    await output.offset_of(stream, gap.begin.stored + 1) is None
                )
        position, read = 0, bytearray(stored)
        while extents := await output.read(position, 50_000):
            for extent in extents:
                position = extent.position + len(extent.data)
                assert extent.data == self.all[extent.position : position]
                assert set(self.who[extent.position : position]) == {STREAMS.index(extent.stream)}
                assert extent.offset == self.who[: extent.position].count(STREAMS.index(extent.stream))
                read[extent.position : position] = b"\1" * len(extent.data)
        assert bytes(read) == bytes(missing).translate(b"\1\0" + bytes(254))
        there, which = [bytes(compress(each, read)) for each in (self.all[:stored], self.who[:stored])]
        volume = without(output.volume, gaps)
        choices: dict[Stream | None, bytes] = {None: b"\1\1", Stream.STDOUT: b"\1\0", Stream.STDERR: b"\0\1"}
        for view, mine in choices.items():
            expected = bytes(compress(there, which.translate(mine + bytes(254))))
            present = PresentBytes(output, gaps, view)
            assert present.size == len(expected)
            assert present.size == (measure(volume, view))
            got = b""
            while part := await present.read(len(got), 70_000):
                got += part
            assert got == expected
            at = len(expected) // 3
            assert expected[at:].startswith(await present.read(at, 100))
        return stored - len(there)
