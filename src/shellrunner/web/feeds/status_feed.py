"""Every change of any job's status, read and rendered once for all who follow.

A follower is nothing but the number of the last change that it was told; the store remembers what came after.
`Board` belongs to the app. Must not know sockets.
"""

import asyncio
import re
from collections import OrderedDict
from typing import Final, NamedTuple

from aiohttp import web

from shellrunner.model import Job
from shellrunner.store import Store
from shellrunner.wire import serialize, sse

TICK: Final = 0.05  # seconds between two looks: changes are coalesced for so long
MOST: Final = 256  # jobs that one frame tells of
REMEMBERED: Final = 8  # frames

_ID = re.compile(r"([0-9A-Za-z]+)-(0|[1-9][0-9]{0,17})", re.ASCII)


class StatusFrame(NamedTuple):
    """Events, and the last change that a reader of them was told."""

    events: bytes
    last: int


class Board:
    """What changed, for followers who differ only in how far they are."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looking = asyncio.Lock()
        self._looks = 0
        self._next_look = 0.0
        self._edge = 0
        self._framing = asyncio.Lock()
        self._frames: OrderedDict[tuple[int, int], StatusFrame] = OrderedDict()

    @property
    def last(self) -> int:
        """The number of the last change."""
        return self._store.changes.last

    def event_id(self, number: int) -> str:
        """What a reader comes back with that was told all changes up to this one."""
        return f"{self._store.changes.era}-{number}"

    def place(self, event_id: str) -> int | None:
        """The change that this id stands for; None if it is not one of ours since the opening."""
        known = _ID.fullmatch(event_id)
        if known is None or known[1] != self._store.changes.era or int(known[2]) > self.last:
            return None
        return int(known[2])

    async def look(self) -> int:
        """The last change: of when this was called, or later. All who call within a tick share it."""
        before = self._looks
        async with self._looking:
            if self._looks == before:
                clock = asyncio.get_running_loop().time
                # Even if no time is left to wait: one turn of the loop lets all come in whom the same bell woke.
                await asyncio.sleep(max(0.0, self._next_look - clock()))
                self._looks += 1
                self._edge = self.last
                self._next_look = clock() + TICK
            return self._edge

    async def frame(self, number: int, edge: int) -> StatusFrame | None:
        """What changed after change `number`, at first; None if that is no longer known.

        There must be something: `edge` is a later change, and who gives the same two gets the same frame.
        """
        if frame := self._frames.get((number, edge)):
            return frame
        async with self._framing:
            return self._frames.get((number, edge)) or await self._make(number, edge)

    async def _make(self, number: int, edge: int) -> StatusFrame | None:
        # The changes before the jobs: what a job is told to be is then never older than the id that goes with it,
        # and what came between the two is told once more. One frame after the other, so no reader sees time go back.
        changed = self._store.changes.since(number)
        if changed is None:
            return None
        changed = changed[:MOST]
        jobs = {job.id: job for job in await self._store.some(job_id for _, job_id in changed)}
        told = [self._event(change, job_id, jobs.get(job_id)) for change, job_id in changed]
        frame = self._frames[number, edge] = StatusFrame(b"".join(told), changed[-1][0])
        if len(self._frames) > REMEMBERED:
            self._frames.popitem(last=False)
        return frame

    def _event(self, change: int, job_id: int, job: Job | None) -> bytes:
        if job is None:
            return sse.event("deleted", {"status_id": job_id}, event_id=self.event_id(change))
        return sse.event("status", serialize.status(job), event_id=self.event_id(change))


BOARD: Final = web.AppKey("board", Board)
