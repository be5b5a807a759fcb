"""Every change of any job's status, read and rendered once for all who follow.

A follower is nothing but the number of the last change that it received; the store remembers the later ones.
`StatusFeed` belongs to the app. Must not know sockets.
"""

import re
from typing import Final, NamedTuple

from aiohttp import web

from shellrunner.model import Job
from shellrunner.store import History
from shellrunner.web.app_keys import FindPid
from shellrunner.web.feeds.frame_cache import FrameCache
from shellrunner.web.feeds.shared_read import INTERVAL, SharedRead
from shellrunner.wire import serialize, sse

_MAX_JOBS: Final = 256  # in one frame

_EVENT_ID = re.compile(r"([0-9A-Za-z]+)-(0|[1-9][0-9]{0,17})", re.ASCII)


class StatusFrame(NamedTuple):
    """Events, and the number of the last change that they report."""

    events: bytes
    last: int


class StatusFeed:
    """What changed, for followers that differ only in how far they are."""

    def __init__(self, store: History, find_pid: FindPid) -> None:
        self.shared_read = SharedRead(self._read, INTERVAL)
        self._store, self._find_pid = store, find_pid
        self._frames: FrameCache[tuple[int, int], StatusFrame] = FrameCache()

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

    async def _read(self) -> int:
        return self.head

    async def _make(self, after: int) -> StatusFrame | None:
        # The changes before the jobs: a status is then never older than the id that is sent with it, and what changes
        # between the two reads is sent once more.
        changes = self._store.changes.since(after)
        if changes is None:
            return None
        changes = changes[:_MAX_JOBS]
        jobs = {job.id: job for job in await self._store.jobs(job_id for _, job_id in changes)}
        events = [self._event(change, job_id, jobs.get(job_id)) for change, job_id in changes]
        return StatusFrame(b"".join(events), changes[-1][0])

    def _event(self, change: int, job_id: int, job: Job | None) -> bytes:
        if job is None:
            return sse.event("deleted", {"status_id": job_id}, event_id=self.event_id(change))
        return sse.event("status", serialize.status(job, self._find_pid(job_id)), event_id=self.event_id(change))


STATUS_FEED: Final = web.AppKey("status_feed", StatusFeed)
