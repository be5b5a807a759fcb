"""How the service is asked to stop, and how it leaves.

Owned by the composition root.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Final

from shellrunner.supervisor import Supervisor
from shellrunner.systemd.notify import Notifier

log = logging.getLogger("shellrunner.service")

_STEP: Final = 5.0  # seconds between two requests for more time


@contextlib.contextmanager
def caught_signals(reread: Callable[[], None]) -> Iterator["Stop"]:
    """Turn SIGTERM and SIGINT into a wish to stop, and SIGHUP into a call of `reread`."""
    loop, stop = asyncio.get_running_loop(), Stop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.ask)
    loop.add_signal_handler(signal.SIGHUP, reread)
    try:
        yield stop
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(signum)


class Stop:
    """How often somebody asked for the end: once is a wish, twice is impatience."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self._once, self._twice = asyncio.Event(), asyncio.Event()

    def ask(self) -> None:
        """Ask (again)."""
        (self._twice if self._once.is_set() else self._once).set()

    async def wait(self) -> None:
        """Return once somebody asked."""
        await self._once.wait()

    async def impatience(self) -> None:
        """Return once somebody asked again."""
        await self._twice.wait()


async def leave(supervisor: Supervisor, how: str, stop: Stop, *parts: asyncio.Task[None]) -> None:
    """Do with the running jobs what `on_stop` says; a second signal, or a part that crashes, stops the waiting."""
    if how != "keep" and not any(part.done() for part in parts):
        log.info("waiting for running jobs", extra={"on_stop": how, "jobs": supervisor.running_count})
        await first_of(supervisor.drain(cancel=how == "cancel"), stop.impatience(), *parts)


async def ask_for_time(notifier: Notifier) -> None:
    """While the stop waits for commands, keep systemd from ending it (TimeoutStopSec)."""
    while True:
        notifier.extend(3 * _STEP)
        await asyncio.sleep(_STEP)


async def first_of(*things: "asyncio.Future[None] | Coroutine[object, object, None]") -> None:
    """Return once one of them is over; cancel those that are not tasks of somebody else."""
    ours = {asyncio.ensure_future(thing) for thing in things if not isinstance(thing, asyncio.Future)}
    others = {thing for thing in things if isinstance(thing, asyncio.Future)}
    try:
        await asyncio.wait(ours | others, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ours:
            task.cancel()
