"""The raw mode of this terminal: every key is read as it is pressed, and nothing is echoed or made a signal.

Must not know who reads the keys.
"""

import contextlib
import os
import termios
import tty
from typing import Any, Final

from shellrunner.cli.fd_io import STDIN, STDOUT

_DEFAULT_SIZE: Final = (24, 80)


class RawMode:
    """A terminal that can be made raw, and is as before afterwards."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[Any] | None = None

    @property
    def is_entered(self) -> bool:
        """Whether it is raw."""
        return self._before is not None

    def enter(self) -> None:
        """Make it raw; what was typed before stays to be read. A second call does nothing."""
        if self._before is None:
            with contextlib.suppress(termios.error):  # it was closed
                self._before = termios.tcgetattr(self._fd)
                tty.setraw(self._fd, termios.TCSADRAIN)

    def leave(self) -> None:
        """Restore it, and discard what was not read: the terminal's answers to questions of the command."""
        before, self._before = self._before, None
        if before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, before)


def terminal_size(fd: int) -> tuple[int, int]:
    """Return the rows and columns of a terminal; 24 and 80 where they are not known."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return _DEFAULT_SIZE
    return (rows, columns) if rows and columns else _DEFAULT_SIZE


def is_at_terminal() -> bool:
    """Return whether standard input and standard output are a terminal."""
    return os.isatty(STDIN) and os.isatty(STDOUT)
