"""Commands that do several things at a time: follow a job, send its input, redraw the status line, handle Ctrl-C.

Must not know any command.
"""

import asyncio
import signal
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from shellrunner.cli import exit_codes
from shellrunner.cli.ui.progress import REDRAW_INTERVAL, Progress

T = TypeVar("T")

TERMINATIONS: Final = (signal.SIGTERM, signal.SIGHUP)


def run(main: Coroutine[Any, Any, T], progress: Progress) -> T:
    """Run `main` in an event loop, and keep the status line up to date meanwhile."""
    return asyncio.run(run_with_background(main, _redraw(progress)))


async def _redraw(progress: Progress) -> None:
    while True:
        await asyncio.sleep(REDRAW_INTERVAL)
        progress.redraw()


async def run_with_background(main: Coroutine[Any, Any, T], *background: Coroutine[Any, Any, Any]) -> T:
    """Await `main` while `background` runs; they are cancelled at its end, and an error of one of them ends it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in background]
            try:
                return await main
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


class TerminationHandler:
    """Handles SIGTERM and SIGHUP while a task runs: cancels it, so that it can say what it leaves behind."""

    def __init__(self, signals: Sequence[int] = TERMINATIONS) -> None:
        self._signals = signals
        self._task = asyncio.current_task()
        self._received = 0

    @property
    def exit_code(self) -> int:
        """That of a process which the signal has terminated."""
        return exit_codes.SIGNAL_BASE + self._received

    def uncancel(self) -> bool:
        """Return whether this handler cancelled the task, and if so revoke that."""
        if self._received and self._task:
            self._task.uncancel()
        return bool(self._received)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within the block; one that was ignored before (`nohup`) stays ignored."""
        loop = asyncio.get_running_loop()
        handled = [number for number in self._signals if signal.getsignal(number) is not signal.SIG_IGN]
        for number in handled:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if not self._received and self._task:
            self._received = number
            self._task.cancel()


class InterruptHandler:
    """Handles Ctrl-C while a task runs: the first one sets an event, the second one cancels the task."""

    def __init__(self) -> None:
        self.count = 0
        self._task = asyncio.current_task()
        self._first = asyncio.Event()

    async def wait_first(self) -> None:
        """Wait for the first Ctrl-C."""
        await self._first.wait()

    def uncancel(self) -> bool:
        """Return whether this handler cancelled the task, and if so revoke that."""
        if self.count > 1 and self._task:
            self._task.uncancel()
        return self.count > 1

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle Ctrl-C within the block; where it was ignored before (`nohup`, `&`), it stays ignored."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def _on_interrupt(self) -> None:
        self.count += 1
        self._first.set()
        if self.count > 1 and self._task:
            self._task.cancel()
