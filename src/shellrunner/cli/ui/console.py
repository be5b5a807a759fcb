"""Standard output and error: the very bytes of a command, and between them words of ours on lines of their own.

One `Console` for a call. Escapes are written to terminals only. Must not know what is said.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shellrunner.cli.fd_io import STDERR, STDOUT, put
from shellrunner.cli.ui.progress import Progress
from shellrunner.errors import ShellrunnerError

_GONE: Final = (errno.EPIPE, errno.EIO)  # the reader has ended, or the terminal was closed
_NAMES: Final = {STDOUT: "standard output", STDERR: "standard error"}


class OutputClosed(ShellrunnerError):
    """Nobody reads what is written any more: `shellrunner logs 12 | head`."""


class OutputFailed(ShellrunnerError):
    """What was to be written cannot be: the disk is full, say."""


class Console:
    """Where everything is written. `quiet` leaves out what need not be said."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._draws = not quiet and os.isatty(STDERR) and os.environ.get("TERM", "dumb") != "dumb"
        self.progress = Progress(self.draw, self.say, draws=self._draws)
        self._quiet = quiet
        self._unfinished: set[int] = set()  # where the last line has no end yet
        self._drawn = ""
        self._held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within this, a question is on the last line, and nothing is drawn over it."""
        self.draw("")
        self._held = True
        try:
            yield
        finally:
            self._held = False

    async def write(self, fd: int, data: bytes) -> None:
        """Write all of this as it is.

        Raises:
            OutputClosed, OutputFailed.
        """
        self.draw("")
        try:
            await put(fd, data)
        except OSError as error:
            if error.errno in _GONE:
                raise OutputClosed(f"nobody reads {_NAMES[fd]} any more") from None
            raise OutputFailed(f"cannot write to {_NAMES[fd]}: {error.strerror}") from None
        if data:
            (self._unfinished.discard if data.endswith(b"\n") else self._unfinished.add)(fd)

    async def print(self, text: str) -> None:
        """Write a line of ours to standard output, in UTF-8 wherever we are."""
        await self.write(STDOUT, f"{text}\n".encode(errors="replace"))

    def say(self, words: str, *, needed: bool = False) -> None:
        """Tell a person something on standard error, unless it is not needed and we are to be quiet."""
        if self._quiet and not needed:
            return
        self.draw("")
        begin = "\n" if self._is_midline() else ""
        _try_to_put(f"{begin}{words}\n")
        self._unfinished.discard(STDERR)

    def draw(self, text: str) -> None:
        """Show this on a line of its own for now, and nothing with no text; never within a line of the command's."""
        if not self._draws or text == self._drawn or (text and (self._held or self._is_midline())):
            return
        _try_to_put(f"\r\x1b[K\x1b[2m{text[: _columns() - 1]}\x1b[0m" if text else "\r\x1b[K")
        self._drawn = text

    def _is_midline(self) -> bool:
        if os.isatty(STDERR):
            return any(map(os.isatty, self._unfinished))
        return STDERR in self._unfinished


def silence() -> None:
    """Let whatever is still written to standard output vanish: its reader has gone."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDOUT)
    os.close(null)


def _try_to_put(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody is there to be told
        os.write(STDERR, text.encode(errors="replace"))


def _columns() -> int:
    try:
        return os.get_terminal_size(STDERR).columns or 80
    except OSError:
        return 80
