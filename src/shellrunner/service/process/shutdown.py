"""Stop the service: signals, the policy for running jobs, and systemd's stop timeout.

Owned by the composition root.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Final

from shellrunner.startup_signals import STOP_SIGNALS, take_reload_request
from shellrunner.supervisor import Supervisor
from shellrunner.systemd.notify import Notifier

log = logging.getLogger("shellrunner.service")

_STDERR: Final = 2
_EXTEND_INTERVAL: Final = 5.0  # seconds between two requests for more time


@contextlib.contextmanager
def handled_signals(reload: Callable[[], None]) -> Iterator["StopRequest"]:
    """Turn SIGTERM and SIGINT into stop requests of the current task, and SIGHUP into a call of `reload`.

    If the service was started on a terminal that is closed, SIGHUP is the news of that, and a stop request, too: its
    log, with the audit log, would go nowhere.
    Afterwards the previous handlers are in force. With `loop.add_signal_handler` it would be the default action for a
    moment, or until the process has exited, and a second SIGTERM would kill it.
    """
    loop, stop, is_on_terminal = asyncio.get_running_loop(), StopRequest(), os.isatty(_STDERR)

    def hang_up() -> None:
        stop.request() if is_on_terminal and not os.isatty(_STDERR) else reload()

    reactions = {**dict.fromkeys(STOP_SIGNALS, stop.request), signal.SIGHUP: hang_up}
    receiving, waking = socket.socketpair()

    def dispatch() -> None:
        with contextlib.suppress(BlockingIOError):
            for signum in receiving.recv(4096):
                if signum in reactions:
                    reactions[signal.Signals(signum)]()

    with receiving, waking:
        receiving.setblocking(False)
        waking.setblocking(False)
        # The descriptor before the handlers: a signal in between is handled twice, not lost.
        earlier_fd = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        earlier = {signum: signal.signal(signum, _handled_by_loop) for signum in reactions}
        loop.add_reader(receiving, dispatch)
        if take_reload_request():
            hang_up()
        try:
            yield stop
        finally:
            for signum, handler in earlier.items():
                signal.signal(signum, handler or signal.SIG_DFL)
            signal.set_wakeup_fd(earlier_fd)
            loop.remove_reader(receiving)


def _handled_by_loop(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing: the number was written to the wakeup descriptor (`signal.set_wakeup_fd`)."""


class StopRequest:
    """Whether a stop was requested, once (stop as configured) or twice (do not wait for jobs).

    Made by the task that starts the service: the first request cancels it, unless its start is complete.
    """

    def __init__(self) -> None:
        """Start without a request."""
        self._requested, self._repeated = asyncio.Event(), asyncio.Event()
        self._starting = asyncio.current_task()

    def request(self) -> None:
        """Request a stop; a second call repeats the request."""
        if self._requested.is_set():
            self._repeated.set()
            return
        self._requested.set()
        if self._starting:
            self._starting.cancel()

    def start_complete(self) -> None:
        """Do not cancel the task any more: it waits for requests."""
        self._starting = None

    def take_interruption(self) -> bool:
        """Return whether a request has cancelled the start, and if so revoke the cancellation."""
        if not (self._starting and self._requested.is_set()):
            return False
        self._starting.uncancel()
        return True

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
