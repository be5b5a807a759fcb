"""One job's output, read and framed once for all who follow it.

A follower is nothing but a cursor: it asks what comes after it, and gets the same bytes as whoever asks for the
same. `Feeds` belongs to the app; a feed lives as long as somebody follows. Must not know sockets.
"""

import asyncio
from collections import OrderedDict
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from aiohttp import web

from shellrunner.model import Done, Job, Stream
from shellrunner.store import Output, Store
from shellrunner.wire import serialize, sse
from shellrunner.wire.sse import Base64Framer, Cursor, Framer, TextFramer

TICK: Final = 0.05  # seconds between two looks: output is coalesced for so long
PIECE: Final = 1 << 16  # bytes of output in one frame; frames end at multiples of it, where followers meet
LARGE: Final = 2 * PIECE  # bytes of events above which a frame is made smaller: NULs, say, are escaped to sixfold
REMEMBERED: Final = 8  # frames


class Snapshot(NamedTuple):
    """How a job stands, and its output so far."""

    job: Job
    output: Output
    status: bytes

    @property
    def edge(self) -> int:
        """The position after the last byte."""
        return self.output.volume.stored


class OutputFrame(NamedTuple):
    """Events, and what a reader of them has."""

    events: bytes
    cursor: Cursor


class Feed:
    """One job in one encoding."""

    def __init__(self, store: Store, job_id: int, *, base64: bool = False) -> None:
        self._store = store
        self._job_id = job_id
        self._base64 = base64
        self._looking = asyncio.Lock()
        self._begun = self._have = 0  # looks that were begun, and the number of the one we have
        self._next_look = 0.0
        self._look: Snapshot
        self._framing = asyncio.Lock()
        self._frames: OrderedDict[Cursor, OutputFrame] = OrderedDict()

    async def look(self) -> Snapshot:
        """How the job stands now: what was so when this was called, or later. All who call within a tick share it.

        Raises:
            NoSuchJob: deleted.
            ResultGone: its result was deleted.
        """
        before = self._begun
        async with self._looking:
            if self._have <= before:
                clock = asyncio.get_running_loop().time
                # Even if no time is left to wait: one turn of the loop lets all come in whom the same bell woke.
                await asyncio.sleep(max(0.0, self._next_look - clock()))
                self._begun += 1
                self._look = await self._take()
                self._have = self._begun
                self._next_look = clock() + TICK
            return self._look

    async def frame(self, cursor: Cursor, look: Snapshot) -> OutputFrame | None:
        """What comes after the cursor, or None if there is nothing (yet).

        Raises:
            ValueError: this feed never gave such a cursor.
        """
        async with self._framing:
            known = self._frames.get(cursor)
            if known is None:
                known = await self._make(cursor, look)
                if known is not None:
                    self._frames[cursor] = known
                    if len(self._frames) > REMEMBERED:
                        self._frames.popitem(last=False)
            return known

    async def framer(self, cursor: Cursor, look: Snapshot) -> Framer:
        """A framer that goes on after the cursor.

        Raises:
            ValueError: it lies beyond the output, or holds back what is no beginning of a character.
        """
        if cursor.position > look.edge:
            raise ValueError(f"lies beyond the output, which has {look.edge} bytes")
        charset, at = look.job.spec.encoding, cursor.position
        framer: Framer = Base64Framer(at) if self._base64 else TextFramer(charset, at)
        for stream in Stream:
            held = await _before(look.output, stream, at, cursor.held(stream))
            if len(held) < cursor.held(stream) or not framer.resume(stream, held):
                raise ValueError("was not given by this stream")
        return framer

    async def _take(self) -> Snapshot:
        # The status before the output: if it had ended, all output is already there.
        job = await self._store.job(self._job_id)
        output = await self._store.output(self._job_id)
        return Snapshot(job, output, sse.event("status", serialize.status(job)))

    async def _make(self, cursor: Cursor, look: Snapshot) -> OutputFrame | None:
        frame = await self._framed(cursor, look, PIECE)
        if frame is not None and len(frame.events) > LARGE:
            return await self._framed(cursor, look, PIECE // 4)
        return frame

    async def _framed(self, cursor: Cursor, look: Snapshot, piece: int) -> OutputFrame | None:
        at = cursor.position
        if at < look.edge:
            limit = min(look.edge, at - at % piece + piece) - at
            framer = await self.framer(cursor, look)
            pieces = await look.output.read(at, limit)
            # Nothing where there should be something: the store vouches for no more of a damaged output.
            return OutputFrame(framer.events(pieces), framer.cursor) if pieces else None
        if isinstance(look.job.phase, Done) and (cursor.stdout or cursor.stderr):
            framer = await self.framer(cursor, look)
            told = framer.rest(look.job.phase.end.completed)
            return OutputFrame(told, framer.cursor)
        return None


class Feeds:
    """The feeds that are followed now."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._feeds: WeakValueDictionary[tuple[int, bool], Feed] = WeakValueDictionary()

    def of(self, job_id: int, *, base64: bool = False) -> Feed:
        """The one feed of this job in this encoding."""
        feed = self._feeds.get((job_id, base64))
        if feed is None:
            feed = self._feeds[job_id, base64] = Feed(self._store, job_id, base64=base64)
        return feed


FEEDS: Final = web.AppKey("feeds", Feeds)


async def _before(output: Output, stream: Stream, position: int, length: int) -> bytes:
    if length == 0:
        return b""
    offset = await output.offset_of(stream, position)
    return await output.read_stream(stream, offset - length, length) if length <= offset else b""
