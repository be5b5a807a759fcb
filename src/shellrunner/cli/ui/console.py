"""Standard output and error: a command's bytes unchanged, and messages on lines of their own between them.

One `Console` per call. Escape sequences are written to terminals only. Must not know what is written.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from shellrunner import control_characters
from shellrunner.cli.fd_io import STDERR, STDOUT, write_all
from shellrunner.cli.ui.progress import Progress
from shellrunner.errors import ShellrunnerError

_FD_NAMES: Final = {STDOUT: "standard output", STDERR: "standard error"}
_DEFAULT_COLUMNS: Final = 80


class OutputClosed(ShellrunnerError):
    """The output has no reader any more: `shellrunner logs 12 | head`."""


class TerminalClosed(OutputClosed):
    """The terminal was closed: its window, or the connection to it."""


class OutputFailed(ShellrunnerError):
    """The output cannot be written: for example, the disk is full."""


class Console:
    """Writes output, messages and the status line; `quiet` suppresses messages that are not required."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._has_status_line = not quiet and has_styles(STDERR)
        self.progress = Progress(self, is_drawn=self._has_status_line)
        self._quiet = quiet
        self._unfinished: set[int] = set()  # descriptors whose last line has no end yet
        self._status = ""
        self._is_prompting = False

    @contextmanager
    def prompting(self) -> Iterator[None]:
        """Draw no status line within the block, because a question is on the last line."""
        self.draw_status("")
        self._is_prompting = True
        try:
            yield
        finally:
            self._is_prompting = False

    async def write(self, fd: int, data: bytes, *, is_sequence: bool = False) -> None:
        """Write all of `data` unchanged. An escape sequence leaves the cursor in its line.

        Raises:
            OutputClosed, OutputFailed.
        """
        self.draw_status("")
        try:
            await write_all(fd, data)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise OutputClosed(f"{_FD_NAMES[fd]} was closed by its reader") from None
            if error.errno == errno.EIO:
                raise TerminalClosed("the terminal was closed") from None
            raise OutputFailed(f"cannot write to {_FD_NAMES[fd]}: {error.strerror}") from None
        if data and not is_sequence:
            (self._unfinished.discard if data.endswith(b"\n") else self._unfinished.add)(fd)

    async def print_json(self, document: Any, *, indent: int | None = None) -> None:
        """Write a document as JSON; on a terminal with escapes for what would act on it or deceive.

        It is one line, unless it has an `indent`.
        """
        text = json.dumps(document, ensure_ascii=False, indent=indent)
        shown = control_characters.escape_json(text) if os.isatty(STDOUT) else text
        await self.write(STDOUT, f"{shown}\n".encode(errors="backslashreplace"))

    async def print_line(self, text: str) -> None:
        """Write a line to standard output, in UTF-8 whatever the locale."""
        await self.write(STDOUT, f"{text}\n".encode(errors="replace"))

    def report(self, message: str, *, required: bool = False) -> None:
        """Write a message on a line of its own to standard error; `quiet` suppresses it unless it is `required`."""
        if required or not self._quiet:
            self._write_message(control_characters.escape_lines(message))

    def divide(self, message: str) -> None:
        """Write a message between two parts of the output to standard error, set apart from both."""
        if not self._quiet:
            line = f"--- {control_characters.escape(message)} ---"
            # Without what the output before it has set.
            self._write_message(f"\x1b[0;2m{line}\x1b[0m" if has_styles(STDERR) else line)

    def _write_message(self, text: str) -> None:
        self.draw_status("")
        line_break = "\n" if self._is_midline() else ""
        _write_stderr(f"{line_break}{text}\n")
        self._unfinished.discard(STDERR)

    def remark(self, message: str) -> None:
        """Write a message that only a person at a terminal needs."""
        if os.isatty(STDERR):
            self.report(message)

    def draw_status(self, text: str) -> None:
        """Replace the status line, or erase it with an empty text; it is never drawn within a line of output."""
        text = control_characters.escape(text)
        if not self._has_status_line or text == self._status:
            return
        if text and (self._is_prompting or self._is_midline()):
            return
        _write_stderr(f"\r\x1b[K\x1b[2m{text[: _columns() - 1]}\x1b[0m" if text else "\r\x1b[K")
        self._status = text

    def _is_midline(self) -> bool:
        if os.isatty(STDERR):
            return any(map(os.isatty, self._unfinished))
        return STDERR in self._unfinished or (STDOUT in self._unfinished and _is_one_file())


def has_styles(fd: int) -> bool:
    """Return whether this is a terminal that knows escape sequences."""
    return os.isatty(fd) and os.environ.get("TERM", "dumb") != "dumb"


def discard_stdout() -> None:
    """Redirect standard output to /dev/null, so that flushing it at exit does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDOUT)
    os.close(null)


def _write_stderr(text: str) -> None:
    with contextlib.suppress(OSError):  # it is closed: there is nowhere to report that
        os.write(STDERR, text.encode(errors="replace"))


def _is_one_file() -> bool:
    """Return whether standard output and error go to the same place: `2>&1`."""
    try:
        return os.path.sameopenfile(STDOUT, STDERR)
    except OSError:
        return False


def _columns() -> int:
    try:
        return os.get_terminal_size(STDERR).columns or _DEFAULT_COLUMNS
    except OSError:
        return _DEFAULT_COLUMNS
