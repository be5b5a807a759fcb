"""Several attempts of a job as one output: each continues where the one before it ended.

Used by `reader`. Earlier attempts, of which there may be a thousand, are opened one at a time and only when they are
read. Must not know slots, files or rows.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from operator import attrgetter

from shellrunner.model import Stream, Volume
from shellrunner.store.output import Extent, Output


class JoinedAttempts:
    """The `Output` of all attempts: positions and offsets count on from attempt to attempt."""

    def __init__(
        self, earlier: Sequence[Volume], latest: Output, open_earlier: Callable[[int], Awaitable[Output]]
    ) -> None:
        """`earlier`: the volumes of attempts 1, 2, …; `open_earlier` opens one of them by its number."""
        self._before = list(accumulate(earlier, _sum, initial=Volume()))  # by attempt: what was written before it
        self._open_earlier = open_earlier
        self._latest = latest
        self._opened = (len(self._before), latest)

    @property
    def volume(self) -> Volume:
        return _sum(self._before[-1], self._latest.volume)

    async def read(self, position: int, limit: int) -> Sequence[Extent]:
        before, output = await self._attempt_at(position, attrgetter("stored"))
        found = await output.read(position - before.stored, limit)
        return [
            replace(
                extent,
                position=before.stored + extent.position,
                offset=_stored_of(extent.stream)(before) + extent.offset,
            )
            for extent in found
        ]

    async def read_stream(self, stream: Stream, offset: int, limit: int) -> bytes:
        stored = _stored_of(stream)
        before, output = await self._attempt_at(offset, stored)
        return await output.read_stream(stream, offset - stored(before), limit)

    async def offset_of(self, stream: Stream, position: int) -> int:
        before, output = await self._attempt_at(position, attrgetter("stored"))
        return _stored_of(stream)(before) + await output.offset_of(stream, position - before.stored)

    async def _attempt_at(self, place: int, measure: Callable[[Volume], int]) -> tuple[Volume, Output]:
        """Return the attempt that contains `place` (the last of those that begin there), and what precedes it."""
        number = bisect_right(self._before, place, key=measure)
        return self._before[number - 1], await self._open(number)

    async def _open(self, number: int) -> Output:
        if number == len(self._before):
            return self._latest
        opened, output = self._opened
        if opened != number:
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


def _stored_of(stream: Stream) -> Callable[[Volume], int]:
    return attrgetter(f"{stream}_bytes")
