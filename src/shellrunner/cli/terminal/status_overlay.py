"""The status line while a job has the terminal: on the last row of a full screen, else as lines of their own.

Owned by an attachment. Must not know what is reported.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Final

from shellrunner import control_characters
from shellrunner.cli.fd_io import STDOUT
from shellrunner.cli.terminal.modes import TerminalModes
from shellrunner.cli.terminal.raw_mode import terminal_size

# Save the cursor, go to a row, and restore it. The text is in reverse.
_DRAW: Final = "\x1b7\x1b[{row};1H\x1b[0;7m{text}\x1b[0m\x1b[K\x1b8"


class StatusOverlay:
    """Draws over what the command has drawn; `on_erased` is called when that is to be drawn again."""

    def __init__(self, modes: TerminalModes, on_erased: Callable[[], None]) -> None:
        self._modes, self._on_erased = modes, on_erased
        self._is_shown = False

    def draw_status(self, text: str) -> None:
        """Show a text, or with an empty one that it holds no longer."""
        if not text:
            if self._is_shown:
                self._is_shown = False
                self._on_erased()
        elif self._modes.is_full_screen:
            rows, columns = terminal_size(STDOUT)
            _write(_DRAW.format(row=rows, text=control_characters.escape(text)[: columns - 1]))
            self._is_shown = True
        elif not self._is_shown:
            self.report(text.partition("; retrying")[0])
            self._is_shown = True

    def report(self, message: str) -> None:
        """Write a message: on a line of its own, or over the last row until the screen is drawn again."""
        if self._modes.is_full_screen:
            self.draw_status(message)
        else:
            _write(f"\r\n[{control_characters.escape(message)}]\r\n")


def alert() -> None:
    """Sound the terminal's alert (BEL)."""
    _write("\a")


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # it was closed, which the next output shows
        os.write(STDOUT, text.encode(errors="replace"))
