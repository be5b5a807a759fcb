"""Several attempts of a job as one output: each continues where the one before it ended.

Used by `reader`. Earlier attempts, of which there may be a thousand, are opened one at a time and only when they are
read. Must not know slots, files or rows.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from operator import attrgetter

from shellrunner.keeper.slot import DATA_CAPACITY
from shellrunner.model import Stream, Volume
from shellrunner.store.output import Extent, Gap, Output


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
        self._gaps: dict[bool, Sequence[Gap]] = {}  # by whether the search for them was thorough
        self._damaged: dict[int, Output] = {}  # earlier attempts with gaps, which each knows

    @property
    def volume(self) -> Volume:
        return _sum(self._before[-1], self._latest.volume)

    @property
    def lags(self) -> bool:
        return self._latest.lags

    @property
    def attempt_ends(self) -> Sequence[int]:
        return [before.stored for before in self._before[1:]]

    async def gaps(self, *, thorough: bool = False) -> Sequence[Gap]:
        if not self._gaps.keys() & {True, thorough}:
            self._gaps[thorough] = await self._find_gaps(thorough=thorough)
        return self._gaps[True] if True in self._gaps else self._gaps[False]

    async def _find_gaps(self, *, thorough: bool) -> Sequence[Gap]:
        found: list[Gap] = []
        for number, before in enumerate(self._before, start=1):
            # Each needs its row to be read: as a rule only those that certainly have files.
            if number == len(self._before) or thorough or self._stored(number) > DATA_CAPACITY:
                gaps = await (await self._open(number)).gaps(thorough=thorough)
                found += [Gap(_sum(before, gap.begin), _sum(before, gap.end)) for gap in gaps]
                if gaps:
                    self._damaged[number] = await self._open(number)
        return found

    def _stored(self, number: int) -> int:
        return self._before[number].stored - self._before[number - 1].stored

    async def read(self, position: int, limit: int) -> Sequence[Extent]:
        number = bisect_right(self._before, position, key=attrgetter("stored"))
        while True:
            before, output = self._before[number - 1], await self._open(number)
            found = await output.read(max(0, position - before.stored), limit)
            # Nothing more of this attempt is there: the gap reaches into the next one.
            if found or number not in self._damaged or number == len(self._before):
                break
            number += 1
        return [
            replace(
                extent,
                position=before.stored + extent.position,
                offset=_stored_of(extent.stream)(before) + extent.offset,
            )
            for extent in found
        ]

    def read_both(self, limit: int) -> tuple[bytes, bytes] | None:
        return None

    async def read_bytes(self, position: int, limit: int) -> bytes:
        number = bisect_right(self._before, position, key=attrgetter("stored"))
        before, output = self._before[number - 1], await self._open(number)
        return await output.read_bytes(position - before.stored, limit)

    async def read_stream(self, stream: Stream, offset: int, limit: int) -> bytes:
        stored = _stored_of(stream)
        number = bisect_right(self._before, offset, key=stored)
        before, output = self._before[number - 1], await self._open(number)
        return await output.read_stream(stream, offset - stored(before), limit)

    async def offset_of(self, stream: Stream, position: int) -> int | None:
        # The attempt that contains the position: the last of those that begin there.
        number = bisect_right(self._before, position, key=attrgetter("stored"))
        before, output = self._before[number - 1], await self._open(number)
        offset = await output.offset_of(stream, position - before.stored)
        return None if offset is None else _stored_of(stream)(before) + offset

    async def _open(self, number: int) -> Output:
        if number == len(self._before):
            return self._latest
        if number in self._damaged:
            return self._damaged[number]
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
