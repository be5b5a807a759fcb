"""Broadcast of a feed to followers at one position: one task writes the same bytes to all, and wakes none of them.

Each feed owns one. Must not know what is sent, or sockets.

    catches up by itself ── has what the others have ──> member: only the one task writes to it
             ^                                             │
             └──────────── its client is behind ───────────┘

A task that wakes up, sets its timers and looks for updates costs more than the write that follows, so a thousand
followers of one job would cost a thousand times that for each line of output.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import perf_counter
from typing import Final, Generic, Protocol, TypeVar

from shellrunner.errors import ShellrunnerError
from shellrunner.store import Subscription
from shellrunner.wire.sse import HEARTBEAT

log = logging.getLogger("shellrunner.web")

P = TypeVar("P")

_SLICE: Final = 0.002  # seconds for which members are written to before the event loop's other work has its turn


class FollowerStream(Protocol):
    """One follower's response."""

    @property
    def closing(self) -> bool:
        """Whether the service is shutting down."""

    async def offer(self, data: bytes) -> bool:
        """Write, unless the client is behind or has gone; never wait for it. Return whether it was written."""

    async def drain(self) -> None:
        """Wait until the client has taken nearly all of what was written."""

    async def wait_for(self, subscription: Subscription) -> bool:
        """Wait for a notification; return False if a heartbeat is due first, or the service is shutting down."""

    async def send(self, data: bytes) -> None:
        """Write, and wait until the client has taken nearly all of it."""


class _Member(Generic[P]):
    """A follower and its position. Its own task waits until it is released."""

    def __init__(self, position: P) -> None:
        self.position = position
        self._released = asyncio.Event()

    def release(self) -> None:
        """Wake up its own task."""
        self._released.set()

    async def wait(self) -> None:
        """Wait until it is released."""
        await self._released.wait()


class Broadcast(Generic[P]):
    """The followers of a feed that have received everything so far."""

    def __init__(self, charge: Callable[[float], None]) -> None:
        """`charge` is called after each broadcast, with the seconds for which it occupied the event loop."""
        self._charge = charge
        self._members: dict[FollowerStream, _Member[P]] = {}
        self._position: P | None = None  # of all members, and of the task, as long as it runs
        self._task: asyncio.Task[None] | None = None

    async def follow(
        self, stream: FollowerStream, position: P, updates: Callable[[P], AsyncGenerator[tuple[bytes, P], None]]
    ) -> P:
        """Send updates to a follower at this position until its client is behind; return its new position.

        It may be sent nothing: if other followers are at another position, if `updates` ends at once, or if the
        service is shutting down. After every call the caller looks for updates by itself.

        `updates` begins at a position, and yields bytes and the position after them; it ends when followers are to
        look for updates by themselves.

        Raises:
            ConnectionError: the client has disconnected, or the service is shutting down and it does not read.
        """
        if self._task is not None and position != self._position:
            return position
        member = self._members[stream] = _Member(position)
        if self._task is None:
            self._position = position
            self._task = asyncio.create_task(self._run(updates(position)), name="broadcast")
        try:
            while not await stream.wait_for(member) and not stream.closing:
                await stream.send(HEARTBEAT)
        finally:
            self._members.pop(stream, None)
            if not self._members:
                self._stop()
        await stream.drain()
        return member.position

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, updates: AsyncGenerator[tuple[bytes, P], None]) -> None:
        try:
            async with aclosing(updates):
                async for data, position in updates:
                    self._charge(await self._send(data, position))
        except ShellrunnerError:
            pass  # each of the members meets it when it looks for updates by itself
        except Exception:
            log.exception("could not send updates to %d followers at once", len(self._members))
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                for stream in list(self._members):
                    self._members.pop(stream).release()

    async def _send(self, data: bytes, position: P) -> float:
        """Write to each member; return for how many seconds that occupied the event loop."""
        self._position = position  # from now on: a follower that joins while others are written to has this already
        took, began = 0.0, perf_counter()
        for stream, member in list(self._members.items()):
            if stream not in self._members or member.position == position:
                continue  # it left, or joined, while others were written to
            if await stream.offer(data):
                member.position = position
            else:
                self._members.pop(stream).release()
            if (now := perf_counter()) - began > _SLICE:
                took += now - began
                await asyncio.sleep(0)
                began = perf_counter()
        return took + perf_counter() - began
