"""Several attempts of a job as one output: each goes on where the one before it ended.

Owned by `output`. What attempts before the last wrote is read from their rows only when it is asked for, one at a
time: there may be a thousand. Must not know slots or files.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from operator import attrgetter

from shellrunner.model import Stream, Volume
from shellrunner.store import Extent, Output


class JoinedAttempts:
    """An output made of those of all attempts: positions and offsets count on from attempt to attempt."""

    def __init__(
        self, earlier: Sequence[Volume], latest: Output, open_earlier: Callable[[int], Awaitable[Output]]
    ) -> None:
        """`earlier` attempts, from 1 on, are opened by their number."""
        self._before = list(accumulate(earlier, _sum, initial=Volume()))  # each attempt: what was written before it
        self._open_earlier = open_earlier
        self._latest = latest
        self._opened = (len(self._before), latest)

    @property
    def volume(self) -> Volume:
        return _sum(self._before[-1], self._latest.volume)

    async def read(self, position: int, limit: int) -> Sequence[Extent]:
        before, output = await self._at(position, attrgetter("stored"))
        found = await output.read(position - before.stored, limit)
        return [
            replace(
                extent,
                position=before.stored + extent.position,
                offset=_own(extent.stream)(before) + extent.offset,
            )
            for extent in found
        ]

    async def read_stream(self, stream: Stream, offset: int, limit: int) -> bytes:
        own = _own(stream)
        before, output = await self._at(offset, own)
        return await output.read_stream(stream, offset - own(before), limit)

    async def offset_of(self, stream: Stream, position: int) -> int:
        before, output = await self._at(position, attrgetter("stored"))
        return _own(stream)(before) + await output.offset_of(stream, position - before.stored)

    async def _at(self, place: int, measure: Callable[[Volume], int]) -> tuple[Volume, Output]:
        """The attempt in which this place lies (the last of those that begin there), and what was before it."""
        number = bisect_right(self._before, place, key=measure)
        return self._before[number - 1], await self._open(number)

    async def _open(self, number: int) -> Output:
        if number == len(self._before):
            return self._latest
        known, output = self._opened
        if known != number:
            output = await self._open_earlier(number)
            self._opened = (number, output)
        return output


def _sum(one: Volume, other: Volume) -> Volume:
    return Volume(
        one.stdout_bytes + other.stdout_bytes,
        one.stderr_bytes + other.stderr_bytes,
        one.stdout_dropped + other.stdout_dropped,
        one.stderr_dropped + other.stderr_dropped,
    )


def _own(stream: Stream) -> Callable[[Volume], int]:
    return attrgetter(f"{stream}_bytes")
