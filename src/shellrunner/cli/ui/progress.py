"""What is waited for just now: shown on a terminal once it takes longer than a moment, and how long it takes.

Owned by a call's `Console` and kept up to date by whoever waits. Must not know how lines are drawn.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from shellrunner.cli.ui import formatting
from shellrunner.errors import ShellrunnerError

_MOMENT: Final = 1.0  # seconds that need no explanation
_LONG: Final = 3.0  # seconds without a connection after which it is said also where nothing can be drawn
_TICK: Final = 0.25


class Progress:
    """One line that says it, drawn by `draw`; where none is drawn, `say` tells only that the connection is lost."""

    def __init__(self, draw: Callable[[str], None], say: Callable[[str], None], *, draws: bool) -> None:
        self._draw, self._say, self._draws = draw, say, draws
        self._awaited = ""
        self._since = self._lost_since = time.monotonic()
        self._lost: ShellrunnerError | None = None
        self._told = False

    def waits_for(self, what: str) -> None:
        """Say what is waited for from now on; nothing: nothing is."""
        if what != self._awaited:
            self._awaited, self._since = what, time.monotonic()
            self._draw("")

    def notice(self, error: ShellrunnerError | None) -> None:
        """Take notice that the connection is lost, or (None) back."""
        if error and not self._lost:
            self._lost_since = time.monotonic()
        self._lost = error
        if not error:
            self._draw("")
            if self._told:
                self._say("the connection is back")
                self._told = False

    async def show(self) -> None:
        """Draw it again and again, until cancelled."""
        while True:
            await asyncio.sleep(_TICK)
            self._show(time.monotonic())

    def _show(self, now: float) -> None:
        if self._lost:
            self._complain(self._lost, now - self._lost_since)
        elif self._awaited and now - self._since >= _MOMENT:
            self._draw(f"{self._awaited}, {formatting.span(now - self._since, whole=True)}")

    def _complain(self, error: ShellrunnerError, lasts: float) -> None:
        if self._draws:
            if lasts >= _MOMENT:
                self._draw(f"{error.detail}; trying again, {formatting.span(lasts, whole=True)}")
        elif lasts >= _LONG and not self._told:
            self._say(f"{error.detail}; trying again")
            self._told = True
