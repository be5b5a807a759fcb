"""The modes into which a command has put its terminal, read from its output.

So that a terminal that is attached later gets them, and one that is detached loses them. After ECMA-48 and "XTerm
Control Sequences". Must not know where the output comes from.
"""

import re
from typing import Final

WRAP_LINES: Final = b"\x1b[?7h"
_CHANGE: Final = re.compile(
    rb"\x1b\[\?(?P<private>[0-9;]{1,64})(?P<on>[hl])"
    rb"|\x1b(?P<keypad>[=>])"
    rb"|\x1b\[>4(?:;(?P<modified>[0-9]))?m"
    rb"|\x1b\[(?P<kitty>[<>][0-9]{0,4})[0-9;]*u"
    rb"|\x1b\[(?P<cursor>[0-9]) q"
    rb"|(?P<reset>\x1bc|\x1b\[!p)"
)
_MAX_SEQUENCE: Final = 80  # bytes
_KEYBOARD: Final = tuple(b"%d" % mode for mode in (1, 66, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004))
_SCREENS: Final = (b"47", b"1047", b"1049")
_OFF_BY_DEFAULT: Final = frozenset({*_KEYBOARD, *_SCREENS, b"5", b"6"})
_ON_BY_DEFAULT: Final = frozenset({b"7", b"25"})  # wrapping lines, and the cursor
# Colours; the region that scrolls, which moves the cursor; ASCII as the character set.
_PLAIN: Final = b"\x1b[0m\x1b7\x1b[r\x1b8\x1b(B\x0f"


class TerminalModes:
    """Follows one stream of output, however it is cut into pieces."""

    def __init__(self) -> None:
        self._pending = b""
        self._changed: set[bytes] = set()  # private modes that are not as they are by default
        self._reset()

    def _reset(self) -> None:
        self._changed.clear()
        self._keypad = self._cursor = False
        self._modified = b""
        self._kitty = 0  # entries on the stack of the keyboard protocol

    @property
    def is_full_screen(self) -> bool:
        """Whether the alternate screen is shown, whose programs draw all of it."""
        return not self._changed.isdisjoint(_SCREENS)

    def feed(self, data: bytes) -> None:
        """Note what the output changes."""
        data = self._pending + data
        end = 0
        for change in _CHANGE.finditer(data):
            self._apply(change)
            end = change.end()
        start = data.rfind(b"\x1b", max(end, len(data) - _MAX_SEQUENCE))
        self._pending = data[start:] if start >= 0 else b""

    def _apply(self, change: re.Match[bytes]) -> None:
        match change.lastgroup:
            case "on":
                for mode in change["private"].split(b";"):
                    self._set(mode, on=change["on"] == b"h")
            case "keypad":
                self._keypad = change["keypad"] == b"="
            case "kitty":
                pushed = change["kitty"].startswith(b">")
                self._kitty = self._kitty + 1 if pushed else max(0, self._kitty - int(change["kitty"][1:] or b"1"))
            case "cursor":
                self._cursor = change["cursor"] != b"0"
            case "reset":
                self._reset()
            case _:
                self._modified = (change["modified"] or b"").strip(b"0")

    def _set(self, mode: bytes, *, on: bool) -> None:
        if mode in _OFF_BY_DEFAULT if on else mode in _ON_BY_DEFAULT:
            self._changed.add(mode)
        else:
            self._changed.discard(mode)

    def enter_screen(self) -> bytes:
        """Return what puts a terminal into the same screen, empty."""
        screens = [mode for mode in _SCREENS if mode in self._changed]
        return b"".join(b"\x1b[?%sh" % mode for mode in screens) + b"\x1b[H\x1b[2J" * bool(screens)

    def enter_input(self) -> bytes:
        """Return what makes a terminal send the same keys and movements of the mouse."""
        modes = [b"\x1b[?%sh" % mode for mode in _KEYBOARD if mode in self._changed]
        modified = b"\x1b[>4;%sm" % self._modified if self._modified else b""
        return b"".join(modes) + b"\x1b=" * self._keypad + modified

    def leave(self) -> bytes:
        """Return what brings a terminal back to how it is by default."""
        screens = [mode for mode in _SCREENS if mode in self._changed]
        others = self._changed.difference(screens)
        parts = [b"\x1b[?%s%s" % (mode, b"h" if mode in _ON_BY_DEFAULT else b"l") for mode in sorted(others)]
        parts += [b"\x1b>"] * self._keypad + [b"\x1b[>4m"] * bool(self._modified) + [b"\x1b[0 q"] * self._cursor
        parts += [b"\x1b[<%du" % self._kitty] * bool(self._kitty)
        return b"".join([*parts, _PLAIN, *(b"\x1b[?%sl" % mode for mode in screens)])
