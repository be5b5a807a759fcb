"""Somebody who types: the installed command line through pipes, and in a real pseudo-terminal."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from tests.support import prefork
from tests.support.waiting import WAIT_TIMEOUT, until, within


class Done(NamedTuple):
    """How a call ended and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def messages(self) -> str:
        """What it wrote to stderr, with `N` for the job's number and `SIZE` for sizes."""
        numbers = re.sub(r"(job|-f|cancel) \d+", r"\1 N", self.err)
        return re.sub(r"[\d.]+ [KM]?i?B", "SIZE", numbers)


class Typist:
    """Calls the command line with an environment of its own."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "TERM": "xterm"}
        self.environment |= environment

    @contextlib.asynccontextmanager
    async def begin(
        self, *arguments: object, stdin: Any = asyncio.subprocess.DEVNULL, **more: Any
    ) -> AsyncIterator[prefork.PipedProcess]:
        """Yield a call that is under way; it is ended, if it still runs at the end."""
        process = await prefork.create_process(
            *prefork.SCRIPT, *map(str, arguments), stdin=stdin, env=self.environment,
            **{"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE, **more},
        )  # fmt: skip
        piped = cast("prefork.PipedProcess", process)
        try:
            yield piped
        finally:
            if process.returncode is None:
                process.kill()
                await within(process.wait(), what=f"the command line (pid {process.pid}) has ended")
            piped._transport.close()

    async def run(self, *arguments: object, given: bytes | None = None, **more: Any) -> Done:
        """Call it, and wait for its end."""
        async with self.begin(*arguments, stdin=asyncio.subprocess.PIPE, **more) as process:
            return await finished(process, given)

    @contextlib.asynccontextmanager
    async def at_terminal(
        self, *arguments: object, columns: int = 80, rows: int = 24, pipe: str = ""
    ) -> AsyncIterator["Screen"]:
        """Yield a call in a terminal of its own; `pipe` is what a shell puts behind it: `| head -1`, `2>file`."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        program = [*prefork.SCRIPT, *map(str, arguments)]
        if pipe:
            shell = ["/bin/bash", "-c", f'exec <"$0" >"$0" 2>&1; "$@" {pipe}; exit $?', os.ttyname(slave)]
            process = await prefork.exec_process(*shell, *program, env=self.environment, start_new_session=True)
        else:
            process = await prefork.create_in_terminal(*program, env=self.environment, terminal=slave)
        screen = Screen(master, slave, process)
        try:
            yield screen
        finally:
            screen.hang_up()
            if process.returncode is None:
                process.kill()
                await within(process.wait(), what=f"the command line (pid {process.pid}) has ended")


class Screen:
    """A terminal, as its user sees it and types into it."""

    def __init__(self, master: int, slave: int, process: Process) -> None:
        self.shown, self._at_end = b"", False
        self._master, self._process = master, process
        self._slave = slave  # while somebody has it open, there is no end
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has it open any more
            data = b""
        if not data:
            self._at_end = True
            asyncio.get_running_loop().remove_reader(self._master)
        self.shown += data

    @property
    def pid(self) -> int:
        """The process that has the terminal."""
        return self._process.pid

    def types(self, text: bytes) -> None:
        """Press these keys."""
        os.write(self._master, text)

    def resize(self, rows: int, columns: int) -> None:
        """Make the window as large as that."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def shows(self, text: bytes, seconds: float = WAIT_TIMEOUT, after: bytes = b"") -> None:
        """Wait until this is on it, behind something else."""
        try:
            await until(lambda: text in self.shown.rpartition(after)[2] if after else text in self.shown, seconds)
        except AssertionError:
            raise AssertionError(f"{text!r} is not in {self.shown!r}") from None

    async def code(self, seconds: float = WAIT_TIMEOUT) -> int:
        """Wait for the end, and until all is shown; the exit code."""
        found = await asyncio.wait_for(self._process.wait(), seconds)
        self._close_slave()
        await until(lambda: self._at_end)
        return found

    def signal(self, number: int) -> None:
        """Send a signal to the program."""
        self._process.send_signal(number)

    def hang_up(self) -> None:
        """Close the window."""
        self._close_slave()
        if self._master >= 0:
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._master)
            self._master, self._at_end = -1, True

    def _close_slave(self) -> None:
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1


async def finished(process: Process, given: bytes | None = None) -> Done:
    """Wait for its end, giving it this to read."""
    out, err = await asyncio.wait_for(process.communicate(given), WAIT_TIMEOUT)
    assert process.returncode is not None
    return Done(process.returncode, out, (err or b"").decode())
