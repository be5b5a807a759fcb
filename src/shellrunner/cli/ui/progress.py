"""The status line: what the command waits for and for how long, and the loss of the connection.

Owned by a `Console`; kept up to date and redrawn by the command and its client. Must not know how lines are drawn.
"""

import time
from typing import Final, Protocol

from shellrunner.cli.ui import formatting
from shellrunner.errors import ShellrunnerError

_DRAW_AFTER: Final = 1.0  # seconds of waiting that need no explanation
_REPORT_AFTER: Final = 3.0  # seconds without a connection after which it is reported even where nothing can be drawn
REDRAW_INTERVAL: Final = 0.25


class StatusLine(Protocol):
    """Draws and reports; implemented by `Console`."""

    def draw_status(self, text: str) -> None:
        """Replace the status line; with an empty text, erase it."""

    def report(self, message: str) -> None:
        """Write a message on a line of its own."""


class Progress:
    """Shows one activity at a time; where nothing is drawn, only a lost connection is reported, once."""

    def __init__(self, status_line: StatusLine, *, is_drawn: bool) -> None:
        self._status_line, self._is_drawn = self._at_first = status_line, is_drawn
        self._activity = ""
        self._activity_since = self._lost_since = time.monotonic()
        self._lost: ShellrunnerError | None = None
        self._is_lost_reported = False

    def show_on(self, status_line: StatusLine | None) -> None:
        """Show everything on another line from now on; None: where it was shown at first."""
        self._status_line.draw_status("")
        self._status_line, self._is_drawn = (status_line, True) if status_line else self._at_first

    def set_activity(self, text: str) -> None:
        """Set what is being waited for; an empty text means nothing."""
        if text != self._activity:
            self._activity, self._activity_since = text, time.monotonic()
            self._status_line.draw_status("")

    def on_retry(self, error: ShellrunnerError | None, /) -> None:
        """Record that the connection is lost, or (None) restored; a `RetryListener` of the client."""
        if error and not self._lost:
            self._lost_since = time.monotonic()
        self._lost = error
        if not error:
            self._status_line.draw_status("")
            if self._is_lost_reported:
                self._status_line.report("reconnected")
                self._is_lost_reported = False

    def redraw(self) -> None:
        """Bring the line up to date, as is to be done each `REDRAW_INTERVAL` seconds."""
        now = time.monotonic()
        if self._lost:
            self._show_lost(self._lost, now - self._lost_since)
        elif self._activity and now - self._activity_since >= _DRAW_AFTER:
            duration = formatting.format_duration(now - self._activity_since, whole=True)
            self._status_line.draw_status(f"{self._activity}, {duration}")

    def _show_lost(self, error: ShellrunnerError, seconds: float) -> None:
        if self._is_drawn:
            if seconds >= _DRAW_AFTER:
                duration = formatting.format_duration(seconds, whole=True)
                self._status_line.draw_status(f"{error.detail}; retrying, {duration}")
        elif seconds >= _REPORT_AFTER and not self._is_lost_reported:
            self._status_line.report(f"{error.detail}; retrying")
            self._is_lost_reported = True
