"""Styles of text on standard output, as ANSI escape sequences.

Styles are for terminals only, colours can be disabled by NO_COLOR. Must not know what is written.
"""

import os
import sys
from typing import Final

_ATTRIBUTES: Final = {"bold": 1, "dim": 2}
_COLORS: Final = {"red": 31, "green": 32, "yellow": 33, "magenta": 35, "cyan": 36}


class Styler:
    """Applies styles by name, as far as standard output shows them."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            self._codes |= _ATTRIBUTES
            if not os.environ.get("NO_COLOR"):  # no-color.org: disabled unless empty
                self._codes |= _COLORS

    def apply(self, text: str, style: str) -> str:
        """Return `text` with the style, followed by a reset; unchanged if the style is empty or not shown."""
        code = self._codes.get(style)
        return f"\x1b[{code}m{text}\x1b[0m" if code and text else text
