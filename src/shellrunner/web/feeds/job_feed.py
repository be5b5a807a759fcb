"""One job's output, read and framed once for all who follow it.

A follower is nothing but a cursor: followers with the same cursor get the same bytes. `JobFeeds` belongs to the app;
a feed lives as long as its job has followers. Must not know sockets.
The last of five stages of output (the fourth: `wire.sse`; the first: `keeper.recorder`): events of up to `FRAME_SIZE`
bytes of output are one frame. `broadcast` writes it to all followers who have everything before it, and
`web.http.streaming` to each other one at the pace of its client.
"""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from aiohttp import web

from shellrunner.clock import now_ms
from shellrunner.model import Done, Job, Stream, Streamed, Volume
from shellrunner.results import read_whole
from shellrunner.store import History, Output, Subscription
from shellrunner.store.output.present import without
from shellrunner.web.feeds.broadcast import Broadcast
from shellrunner.web.feeds.frame_cache import FrameCache
from shellrunner.web.feeds.shared_read import INTERVAL, SharedRead
from shellrunner.web.status_view import StatusView
from shellrunner.wire import serialize, sse
from shellrunner.wire.sse import Base64Framer, Framer, StreamCursor, TextFramer

FRAME_SIZE: Final = 1 << 18  # bytes of output in one frame; frames end at multiples of it, where followers meet
MAX_EVENTS_SIZE: Final = 2 * FRAME_SIZE  # bytes of events; above it a frame is made smaller: a NUL takes six

MAX_LIVE_SIZE: Final = 1 << 16  # bytes of events that are written to all followers at once

_CATCH_UP_TIMEOUT: Final = 10.0  # seconds

_FOREIGN_ID: Final = "was not sent by this stream"


class Snapshot(NamedTuple):
    """A job, its output so far, and its status.

    `status` is without what may change without a change of the job, as the command's pid; `status_event` has that.
    """

    job: Job
    output: Output
    status: serialize.Document
    status_event: bytes

    @property
    def end(self) -> int:
        """The position after the last byte of output."""
        return self.output.volume.stored


class OutputFrame(NamedTuple):
    """Events, the cursor of a follower that received them, and how much it knows to be missing (None: no change)."""

    events: bytes
    cursor: StreamCursor
    missing: Volume | None = None


class Received(NamedTuple):
    """What a follower has: the output before a cursor, a status, and by stream how much it knows to be dropped."""

    cursor: StreamCursor
    status: serialize.Document
    dropped: Mapping[Stream, int] = dict.fromkeys(Stream, 0)


class JobFeed:
    """One job in one encoding."""

    def __init__(self, store: History, view: StatusView, job_id: int, *, base64: bool, interval: float) -> None:
        self._base64 = base64
        # Not a method of this object: the cycle of references would keep it after its last follower left.
        self._shared_read = SharedRead(partial(_read, store, view, job_id), interval)
        self._frames: FrameCache[StreamCursor, OutputFrame] = FrameCache()
        self.broadcast: Broadcast[Received] = Broadcast(self._shared_read.charge)
        self._watch = partial(store.watch_output, job_id)
        self._attempt = partial(store.attempt, job_id)

    async def first_snapshot(self) -> Snapshot:
        """Return the job and its output as of this call, for a follower that has just come; see `snapshot`."""
        snapshot = await self._shared_read.read_now()
        spec = snapshot.job.spec
        if spec.tty is not None and isinstance(spec.stdin, Streamed):
            self._shared_read.expect_typing()
        return snapshot

    async def snapshot(self) -> Snapshot:
        """Return the job and its output as of this call or later.

        Raises:
            NoSuchJob: it was deleted.
            ResultGone: its result was deleted.
        """
        return await self._shared_read.latest()

    async def caught_up(
        self, snapshot: Snapshot, subscription: Subscription, has_all: Callable[[Output], bool]
    ) -> Snapshot:
        """Return a later snapshot if a client has read more elsewhere than has arrived here by now.

        After some seconds the latest one is returned in any case.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_TIMEOUT):
                while snapshot.output.lags and not has_all(snapshot.output):
                    await subscription.wait()
                    snapshot = await self.snapshot()
        return snapshot

    async def frame(self, cursor: StreamCursor, snapshot: Snapshot) -> OutputFrame | None:
        """Return the frame after the cursor, or None if there is no more output (yet).

        Raises:
            ValueError: this feed never returned such a cursor.
        """
        return await self._frames.get(cursor, lambda: self._make(cursor, snapshot))

    async def updates(self, received: Received, snapshot: Snapshot) -> AsyncIterator[tuple[bytes, Received]]:
        """Yield the events that a snapshot has for a follower, each time with what it has after them."""
        cursor, status, dropped = received
        while frame := await self.frame(cursor, snapshot):
            cursor = frame.cursor
            if frame.missing is not None:
                dropped = {stream: frame.missing.dropped_bytes(stream) for stream in Stream}
            yield frame.events, Received(cursor, status, dropped)
        if snapshot.status != status:
            status = snapshot.status
            yield snapshot.status_event, Received(cursor, status, dropped)
        recorded, gaps = snapshot.output.volume, await snapshot.output.gaps(thorough=snapshot.job.done)
        for stream in Stream:
            count = without(recorded, gaps).dropped_bytes(stream)
            if count > dropped[stream]:
                dropped = {**dropped, stream: count}
                data = serialize.dropped_event(stream, count, count - recorded.dropped_bytes(stream))
                yield sse.event("dropped", data), Received(cursor, status, dropped)

    async def live(self, received: Received) -> AsyncGenerator[tuple[bytes, Received], None]:
        """Yield the events of each change, until the job is done or more comes than is written at once."""
        with self._watch() as subscription:
            while not (snapshot := await self.snapshot()).job.done:
                events, size = [], 0
                async for data, after in self.updates(received, snapshot):
                    events.append(data)
                    received, size = after, size + len(data)
                    if size > MAX_LIVE_SIZE:
                        return
                if events:
                    yield b"".join(events), received
                await subscription.wait()

    async def framer(self, cursor: StreamCursor, snapshot: Snapshot) -> Framer:
        """Return a framer that continues after the cursor.

        Raises:
            ValueError: the cursor lies beyond the output, or not at the end of its attempt, or holds back bytes that
                do not begin a character. Bytes that are missing by now are held back no more.
        """
        if cursor.position > snapshot.end:
            raise ValueError(f"lies beyond the output, which has {snapshot.end} bytes")
        charset, at = snapshot.job.spec.encoding, cursor.position
        if cursor.attempt and at not in snapshot.output.attempt_ends[cursor.attempt - 1 : cursor.attempt]:
            raise ValueError(_FOREIGN_ID)
        framer: Framer = Base64Framer(at) if self._base64 else TextFramer(charset, at)
        for stream in Stream:
            held = await _held_back(snapshot.output, stream, at, cursor.held(stream))
            if held is None:
                continue  # they are in a gap: what follows them is as behind any other
            if len(held) < cursor.held(stream) or not framer.resume(stream, held):
                raise ValueError(_FOREIGN_ID)
        return framer

    async def _make(self, cursor: StreamCursor, snapshot: Snapshot) -> OutputFrame | None:
        frame = await self._make_sized(cursor, snapshot, FRAME_SIZE)
        if frame is not None and len(frame.events) > MAX_EVENTS_SIZE:
            return await self._make_sized(cursor, snapshot, FRAME_SIZE // 4)
        return frame

    async def _make_sized(self, cursor: StreamCursor, snapshot: Snapshot, size: int) -> OutputFrame | None:
        at = cursor.position
        if (number := _unsent_attempt(cursor, snapshot.output.attempt_ends)) is not None:
            return await self._make_attempt_end(cursor, snapshot, number)
        if at < snapshot.end:
            gaps = await snapshot.output.gaps(thorough=snapshot.job.done)
            end = min(
                [snapshot.end, at - at % size + size, *(gap.begin.stored for gap in gaps if gap.begin.stored > at)]
            )
            in_gap = any(gap.begin.stored <= at < gap.end.stored for gap in gaps)
            pieces = () if in_gap else await snapshot.output.read(at, end - at)
            if not pieces or pieces[0].position > at:
                return await self._make_gap(cursor, snapshot)
            framer = await self.framer(cursor, snapshot)
            return OutputFrame(framer.events(pieces), framer.cursor)
        if isinstance(snapshot.job.phase, Done) and (cursor.stdout or cursor.stderr):
            framer = await self.framer(cursor, snapshot)
            events = framer.flush(snapshot.job.phase.end.completed)
            return OutputFrame(events, framer.cursor)
        return None

    async def _make_attempt_end(self, cursor: StreamCursor, snapshot: Snapshot, number: int) -> OutputFrame:
        """Return the frame of the end of an attempt: what it left incomplete, and how it ended."""
        end = (await self._attempt(number)).end
        framer = await self.framer(cursor, snapshot)
        after = StreamCursor(cursor.position, attempt=number)
        data = serialize.attempt_event(snapshot.job, number, end)
        return OutputFrame(framer.flush(end.completed) + sse.event("attempt", data, event_id=str(after)), after)

    async def _make_gap(self, cursor: StreamCursor, snapshot: Snapshot) -> OutputFrame | None:
        """Return the frame of a gap: what was held back before it, and how much is missing of each stream by now."""
        gaps = await snapshot.output.gaps(thorough=True)
        passed = [gap for gap in gaps if gap.begin.stored <= cursor.position]
        if not passed or passed[-1].end.stored <= cursor.position:
            return None  # it was written to a moment ago, or read by halves: the next snapshot shows it
        framer = await self.framer(cursor, snapshot)
        missing, after = without(Volume(), passed), StreamCursor(passed[-1].end.stored)
        events = framer.flush(now_ms()) + b"".join(
            sse.event("dropped", serialize.dropped_event(stream, count, count), event_id=str(after))
            for stream in Stream
            if passed[-1].stream_bytes(stream) and (count := missing.dropped_bytes(stream))
        )
        return OutputFrame(events, after, missing)


class JobFeeds:
    """The feeds that have followers."""

    def __init__(self, store: History, view: StatusView, interval: float = INTERVAL) -> None:
        """`interval` is the shortest time between two reads of a job, on average."""
        self.interval = interval
        self._store, self._view = store, view
        self._feeds: WeakValueDictionary[tuple[int, bool], JobFeed] = WeakValueDictionary()

    def get(self, job_id: int, *, base64: bool = False) -> JobFeed:
        """Return the one feed of this job in this encoding."""
        feed = self._feeds.get((job_id, base64))
        if feed is None:
            feed = JobFeed(self._store, self._view, job_id, base64=base64, interval=self.interval)
            self._feeds[job_id, base64] = feed
        return feed


JOB_FEEDS: Final = web.AppKey("job_feeds", JobFeeds)


async def _read(store: History, view: StatusView, job_id: int) -> Snapshot:
    # The job before its output: if it is done, the output that is read next is complete.
    job = await store.job(job_id)
    output = await store.output(job_id)
    return Snapshot(job, output, view.stable_document(job), sse.event("status", view.document(job)))


def _unsent_attempt(cursor: StreamCursor, ends: Sequence[int]) -> int | None:
    """Return which attempt ended at the cursor, and is the first whose end a follower does not have; None: none."""
    passed = max(cursor.attempt, bisect_left(ends, cursor.position))
    return passed + 1 if passed < len(ends) and ends[passed] == cursor.position else None


async def _held_back(output: Output, stream: Stream, position: int, length: int) -> bytes | None:
    """Read the last `length` bytes of a stream before a position of the whole output.

    Fewer if there never were as many; None if they are missing by now, or it is not known which they are.
    """
    if length == 0:
        return b""
    for thorough in (False, True):
        await output.gaps(thorough=thorough)
        offset = await output.offset_of(stream, position)
        if offset is None:
            continue
        if offset < length:
            return b""
        held = await read_whole(partial(output.read_stream, stream), offset - length, length)
        if len(held) == length:
            return held
    return None
