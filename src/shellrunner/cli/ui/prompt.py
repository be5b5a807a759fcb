"""Questions to the user at the terminal, independent of standard input and output, and Ctrl-C.

Must not know what is asked.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shellrunner import ascii_text
from shellrunner.cli.fd_io import wait_readable

_MAX_LINE: Final = 4096  # bytes: the longest line of a terminal in canonical mode (termios(3))


async def ask(question: str) -> str | None:
    """Return the answer in lower case, None if there is no terminal to ask at."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():  # in the background, where reading stops the process (SIGTTIN)
            return None
        os.write(terminal, question.encode())
        await wait_readable(terminal)
        answer = os.read(terminal, _MAX_LINE).decode(errors="replace")
        return ascii_text.lower(answer.strip(" \t\r\n"))
    except OSError:  # the terminal was hung up
        return None
    finally:
        os.close(terminal)


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
