"""Questions to the person at the terminal, whatever standard input and output are used for.

Must not know what is asked.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from shellrunner.cli.fd_io import readable

_LINE = 4096  # bytes: the longest line that a terminal gives (termios(3))


async def answer(question: str) -> str | None:
    """Ask, and return what was typed in small letters; None if nobody can be asked."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():  # in the background, where whoever reads is stopped
            return None
        os.write(terminal, question.encode())
        await readable(terminal)
        return os.read(terminal, _LINE).decode(errors="replace").strip().lower()
    except OSError:  # hung up meanwhile
        return None
    finally:
        os.close(terminal)


class Interrupts:
    """Ctrl-C while a task is at work: the first time it is told, the second time the task is cancelled."""

    def __init__(self) -> None:
        self.count = 0
        self._task = asyncio.current_task()
        self._first = asyncio.Event()

    async def first(self) -> None:
        """Return once it was pressed."""
        await self._first.wait()

    def forgive(self) -> bool:
        """Whether it was us who cancelled the task, which then is cancelled no more."""
        if self.count > 1 and self._task:
            self._task.uncancel()
        return self.count > 1

    @contextmanager
    def has_followers(self) -> Iterator[None]:
        """Within this, Ctrl-C does nothing else; where it was ignored before (`nohup`, `&`), it stays so."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._pressed)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def _pressed(self) -> None:
        self.count += 1
        self._first.set()
        if self.count > 1 and self._task:
            self._task.cancel()
