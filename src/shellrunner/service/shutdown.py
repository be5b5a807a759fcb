"""Stop the service: signals, the policy for running jobs, and systemd's stop timeout.

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

_EXTEND_INTERVAL: Final = 5.0  # seconds between two requests for more time


@contextlib.contextmanager
def handled_signals(reload: Callable[[], None]) -> Iterator["StopRequest"]:
    """Turn SIGTERM and SIGINT into stop requests, and SIGHUP into a call of `reload`."""
    loop, stop = asyncio.get_running_loop(), StopRequest()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.request)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield stop
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(signum)


class StopRequest:
    """Whether a stop was requested, once (stop as configured) or twice (do not wait for jobs)."""

    def __init__(self) -> None:
        """Start without a request."""
        self._requested, self._repeated = asyncio.Event(), asyncio.Event()

    def request(self) -> None:
        """Request a stop; a second call repeats the request."""
        (self._repeated if self._requested.is_set() else self._requested).set()

    async def wait(self) -> None:
        """Wait for the first request."""
        await self._requested.wait()

    async def wait_repeated(self) -> None:
        """Wait for the second request."""
        await self._repeated.wait()


async def finish_jobs(supervisor: Supervisor, on_stop: str, stop: StopRequest, *tasks: asyncio.Task[None]) -> None:
    """Leave, wait for, or cancel the running jobs, as `on_stop` says.

    A second stop request, or the crash of one of the tasks, ends the waiting.
    """
    if on_stop != "keep" and not any(task.done() for task in tasks):
        log.info("waiting for running jobs", extra={"on_stop": on_stop, "jobs": supervisor.running_count})
        await first_of(supervisor.drain(cancel=on_stop == "cancel"), stop.wait_repeated(), *tasks)


async def extend_stop_timeout(notifier: Notifier) -> None:
    """Keep systemd from killing the service (TimeoutStopSec) while it waits for jobs, until cancelled."""
    while True:
        notifier.extend_timeout(3 * _EXTEND_INTERVAL)
        await asyncio.sleep(_EXTEND_INTERVAL)


async def first_of(*awaitables: "asyncio.Future[None] | Coroutine[object, object, None]") -> None:
    """Return once one of them is done; cancel the coroutines, leave the futures (tasks of others) alone."""
    ours = {asyncio.ensure_future(each) for each in awaitables if not isinstance(each, asyncio.Future)}
    others = {each for each in awaitables if isinstance(each, asyncio.Future)}
    try:
        await asyncio.wait(ours | others, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ours:
            task.cancel()
