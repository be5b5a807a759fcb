"""What is there of an output, without its gaps, as one sequence of bytes, for answers that cannot show a gap.

Used by the handlers that serve plain bytes. Must not know where output is stored.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from shellrunner.model import Stream, Volume
from shellrunner.store.output import Gap, Output


class _Run(NamedTuple):
    """`length` bytes that follow each other: from `position` on in the output, from `place` on without the gaps."""

    place: int
    position: int
    length: int


class PresentBytes:
    """Both streams in arrival order (None), or one of them, without the gaps."""

    def __init__(self, output: Output, gaps: Sequence[Gap], stream: Stream | None = None) -> None:
        self._output, self._stream = output, stream
        self._runs = list(self._find_runs(gaps))
        self.size = sum(run.length for run in self._runs)

    async def read(self, place: int, limit: int) -> bytes:
        """Read at most `limit` bytes from `place` on; empty only at the end."""
        position, limit = self._locate(place, limit)
        if limit == 0:
            return b""
        if self._stream is not None:
            return await self._output.read_stream(self._stream, position, limit)
        extents = await self._output.read(position, limit)
        # What is missing since the gaps were looked for is not passed over: it was promised.
        return b"".join(extent.data for extent in extents) if extents and extents[0].position == position else b""

    async def read_fast(self, place: int, limit: int) -> bytes:
        """Read as `read` does, but of both streams without their index."""
        if self._stream is not None:
            return await self.read(place, limit)
        return await self._output.read_bytes(*self._locate(place, limit))

    def _locate(self, place: int, limit: int) -> tuple[int, int]:
        """Return where the byte at a place is, and how many of at most `limit` bytes follow without a gap."""
        number = bisect_right(self._runs, place, key=lambda run: run.place) - 1
        if number < 0 or place >= self.size:
            return 0, 0
        run = self._runs[number]
        at = place - run.place
        return run.position + at, min(limit, run.length - at)

    def place_of(self, position: int) -> int:
        """Return how many of the bytes come before a position of the output (or of the one stream)."""
        return sum(min(run.length, max(0, position - run.position)) for run in self._runs)

    def position_of(self, place: int) -> int:
        """Return the position in the output (or of the one stream) of the byte at a place."""
        number = bisect_right(self._runs, place, key=lambda run: run.place) - 1
        return self._runs[number].position + place - self._runs[number].place if number >= 0 else place

    def _find_runs(self, gaps: Sequence[Gap]) -> list[_Run]:
        runs: list[_Run] = []
        place = reached = 0
        ends = [(measure(gap.begin, self._stream), measure(gap.end, self._stream)) for gap in gaps]
        total = measure(self._output.volume, self._stream)
        for begin, end in [*ends, (total, total)]:
            if begin > reached:
                runs.append(_Run(place, reached, begin - reached))
                place += begin - reached
            reached = max(reached, end)
        return runs


def measure(volume: Volume, stream: Stream | None) -> int:
    """Return how many bytes of both streams (None) or of one are stored."""
    return volume.stored if stream is None else volume.stream_bytes(stream)


def without(volume: Volume, gaps: Sequence[Gap]) -> Volume:
    """Return the volume of what is there: what is missing counts as dropped."""
    stdout, stderr = (sum(gap.stream_bytes(stream) for gap in gaps) for stream in Stream)
    return Volume(
        volume.stdout_bytes - stdout,
        volume.stderr_bytes - stderr,
        volume.stdout_dropped + stdout,
        volume.stderr_dropped + stderr,
    )
