"""Every change of any job's status, read and rendered once for all who follow.

A follower is nothing but the number of the last change that it received; the store remembers the later ones.
`StatusFeed` belongs to the app. Must not know sockets.
"""

import re
from collections import OrderedDict
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from aiohttp import web

from shellrunner.model import Job, Phase
from shellrunner.store import History
from shellrunner.web.feeds.broadcast import Broadcast
from shellrunner.web.feeds.frame_cache import FrameCache
from shellrunner.web.feeds.shared_read import INTERVAL, SharedRead
from shellrunner.web.status_view import LiveState, StatusView
from shellrunner.wire import sse

_MAX_JOBS: Final = 256  # in one frame
_MAX_FRAME_SIZE: Final = 1 << 16  # bytes, beyond which a frame gets no more events
_MAX_EVENTS: Final = 2048  # that are kept; each is some 400 bytes

_EVENT_ID = re.compile(r"([0-9A-Za-z]+)-(0|[1-9][0-9]{0,17})", re.ASCII)


class StatusFrame(NamedTuple):
    """Events, and the number of the last change that they report."""

    events: bytes
    last: int


class _StatusEvent(NamedTuple):
    """The event of a change, which has the job as it was then or later; `live` may change without a change.

    phase: None if it was deleted.
    """

    change: int
    phase: Phase | None
    live: LiveState | None
    event: bytes


class StatusFeed:
    """What changed, for followers that differ only in how far they are."""

    def __init__(self, store: History, view: StatusView) -> None:
        self.shared_read = SharedRead(self._read, INTERVAL)
        self.broadcast: Broadcast[int] = Broadcast(self.shared_read.charge)
        self._store, self._view = store, view
        self._frames: FrameCache[tuple[int, int], StatusFrame] = FrameCache()
        self._events: OrderedDict[int, _StatusEvent] = OrderedDict()  # by job, the latest rendered last

    @property
    def head(self) -> int:
        """The number of the last change."""
        return self._store.changes.head

    def event_id(self, change: int) -> str:
        """Return the event id with which a reader of all changes up to this one resumes."""
        return f"{self._store.changes.epoch}-{change}"

    def parse_event_id(self, event_id: str) -> int | None:
        """Return the number of the change, or None if this process never sent such an id."""
        match = _EVENT_ID.fullmatch(event_id)
        if match is None or match[1] != self._store.changes.epoch or int(match[2]) > self.head:
            return None
        return int(match[2])

    async def latest(self) -> int:
        """Return the number of the last change as of this call or later."""
        return await self.shared_read.latest()

    async def frame(self, after: int, head: int) -> StatusFrame | None:
        """Return the first changes after `after`, or None if the store no longer remembers them.

        `head` is a later change; followers with the same two numbers get the same frame.
        """
        return await self._frames.get((after, head), lambda: self._make(after))

    async def live(self, after: int) -> AsyncGenerator[tuple[bytes, int], None]:
        """Yield the events of the changes after `after` as they come, each time with the number of the last one.

        It ends if the store no longer remembers them. When more has changed than fits into a frame, the rest is in
        the next one, by when it may have changed again: a job that changes often is sent as it then is.
        """
        with self._store.watch_changes() as subscription:
            while True:
                head = await self.latest()
                if after < head:
                    frame = await self.frame(after, head)
                    if frame is None:
                        return
                    after = frame.last
                    yield frame.events, after
                if after == head:
                    await subscription.wait()

    async def _read(self) -> int:
        return self.head

    async def _make(self, after: int) -> StatusFrame | None:
        # The changes before the jobs: a status is then never older than the id that is sent with it, and what changes
        # between the two reads is sent once more.
        changes = self._store.changes.since(after, _MAX_JOBS)
        if changes is None:
            return None
        events = {change: event for change, job_id in changes if (event := self._rendered(change, job_id))}
        missing = [(change, job_id) for change, job_id in changes if change not in events]
        if missing:
            jobs = {job.id: job for job in await self._store.jobs(job_id for _, job_id in missing)}
            events |= {change: self._render(change, job_id, jobs.get(job_id)) for change, job_id in missing}
        parts, size, last = [], 0, after
        for change, _ in changes:
            parts.append(events[change])
            size, last = size + len(events[change]), change
            if size > _MAX_FRAME_SIZE:
                break
        return StatusFrame(b"".join(parts), last)

    def _rendered(self, change: int, job_id: int) -> bytes | None:
        """Return the event of a change, which followers who are further on were sent, if it is still as it was."""
        known = self._events.get(job_id)
        if known is None or known.change != change:
            return None
        return known.event if known.live == self._live(job_id, known.phase) else None

    def _live(self, job_id: int, phase: Phase | None) -> LiveState | None:
        return None if phase is None else self._view.live_state(job_id, phase)

    def _render(self, change: int, job_id: int, job: Job | None) -> bytes:
        event_id = self.event_id(change)
        phase = None if job is None else job.phase
        live = self._live(job_id, phase)
        if job is None:
            event = sse.event("deleted", {"status_id": job_id}, event_id=event_id)
        else:
            event = sse.event("status", self._view.document(job), event_id=event_id)
        self._events.pop(job_id, None)
        self._events[job_id] = _StatusEvent(change, phase, live, event)
        if len(self._events) > _MAX_EVENTS:
            self._events.popitem(last=False)
        return event


STATUS_FEED: Final = web.AppKey("status_feed", StatusFeed)
