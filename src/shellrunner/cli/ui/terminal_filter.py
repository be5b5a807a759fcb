"""What a command's output may do to the terminal that shows it: write, colour, and move within the screen.

Everything else is removed: strings for the terminal (clipboard, titles, links, colours of the palette), questions
that it would answer into the input of the shell, and modes that would outlast the output. What is allowed is named
here, after ECMA-48 and "XTerm Control Sequences". Must not know where the output comes from.
"""

import re
from typing import Final

# Tabs, line ends and backspace. Not BEL, SO and SI (another character set), nor ENQ, which some terminals answer.
_C0: Final = rb"\x08-\x0d"
_ASCII_TEXT: Final = re.compile(rb"[\x20-\x7e" + _C0 + rb"]+")
# RFC 3629, 4, without the C1 controls, which are characters of two bytes.
_UTF8_TEXT: Final = re.compile(
    rb"(?:[\x20-\x7e" + _C0 + rb"]|\xc2[\xa0-\xbf]|[\xc3-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}"
    rb"|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})++"
)
_EIGHT_BIT_TEXT: Final = re.compile(rb"[\x20-\x7e\xa0-\xff" + _C0 + rb"]+")
_UNFINISHED_CHARACTER: Final = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")
_REPLACEMENT: Final = "\ufffd".encode()

_CSI: Final = re.compile(rb"(?:\x1b\[|\xc2?\x9b)([\x20-\x3f]*)")
_STRING: Final = re.compile(rb"\x1b[\]PX^_k]|\xc2?[\x90\x98\x9d-\x9f]")  # OSC, DCS, SOS, PM, APC, screen's title
# Also the end of its line, so that a string without an end hides no more than that.
_END_OF_STRING: Final = re.compile(rb"[\x07\x18\x1a\x1b\n]|\xc2\x9c|(?<![\x80-\xff])\x9c")
_C1: Final = re.compile(rb"\xc2?[\x80-\x9f]")
_ESCAPE: Final = re.compile(rb"\x1b([\x20-\x2f]*)([\x30-\x7e]?)")
_MAX_SEQUENCE: Final = 256  # bytes

# Move, erase, insert and delete within the screen, scroll, repeat, colours, the region that scrolls, save and restore
# the cursor. Not, for example: c, n and x (questions), t (the window), i (printing), h and l (modes of the keyboard).
_FINALS: Final = frozenset(b"@ABCDEFGHIJKLMPSTXZ`abdefmrsu")
_ESCAPES: Final = frozenset(b"78DEM")  # save and restore the cursor, one line down or up
_NUMBERS: Final = re.compile(rb"[0-9;:]*")
_ERASE_SCROLLBACK: Final = re.compile(rb"(?:[0-9]*;)*0*3(?:;[0-9]*)*")
CUT_LINES: Final = b"\x1b[?7l"  # that are longer than the terminal's, instead of wrapping them
# Private modes that programs need for drawing: how the terminal is restored after them.
_MODES: Final = {b"7l": b"\x1b[?7h", b"25l": b"\x1b[?25h", b"2026h": b"\x1b[?2026l"}
# The same for programs that take the whole screen; what they need for the keyboard is not among them.
_SCREEN_MODES: Final = {
    **_MODES,
    **{b"%sh" % mode: b"\x1b[?%sl" % mode for mode in (b"5", b"6", b"47", b"1047", b"1049")},
}
_SCREEN_ESCAPES: Final = frozenset({b"\x1b(0", b"\x1b(B"})  # lines and corners as a character set, and ASCII again
_RESET_STYLE: Final = b"\x1b[0m"
_RESET_REGION: Final = b"\x1b7\x1b[r\x1b8"


class TerminalFilter:
    """Filters one stream of bytes, however it is cut into pieces."""

    def __init__(self, *, is_utf8: bool = True, is_full_screen: bool = False) -> None:
        """Start at the beginning of a stream for a terminal with UTF-8, or with a charset of eight bits.

        `is_full_screen` also lets programs draw that take the whole screen.
        """
        self._modes = _SCREEN_MODES if is_full_screen else _MODES
        self._opposites = {mode[:-1] + (b"l" if mode.endswith(b"h") else b"h"): mode for mode in self._modes}
        self._escapes = _SCREEN_ESCAPES if is_full_screen else frozenset[bytes]()
        self._text = _UTF8_TEXT if is_utf8 else _EIGHT_BIT_TEXT
        self._pending = b""  # an unfinished sequence or character
        self._is_in_string = False
        self._restore: dict[bytes, bytes] = {}  # what was changed, and how it is restored

    def feed(self, data: bytes) -> bytes:
        """Return what of the data the terminal may have."""
        data, self._pending = self._pending + data, b""
        out = bytearray()
        position = 0
        while position < len(data):
            position = self._skip_string(data, position) if self._is_in_string else self._take(data, position, out)
        return bytes(out)

    def end(self) -> bytes:
        """Return what restores the terminal; empty if nothing was changed."""
        restore = b"".join(self._restore.values())
        self._restore.clear()
        return restore

    def _take(self, data: bytes, position: int, out: bytearray) -> int:
        """Take text, a sequence or one byte; return where the next one begins."""
        if text := self._text.match(data, position):
            out += text[0]
            return text.end()
        if string := _STRING.match(data, position):
            self._is_in_string = True
            return string.end()
        if sequence := _CSI.match(data, position):
            return self._take_csi(data, sequence, out)
        if escape := _ESCAPE.match(data, position):
            return self._take_escape(data, escape, out)
        return self._take_byte(data, position, out)

    def _take_byte(self, data: bytes, position: int, out: bytearray) -> int:
        """Remove a control, or replace what is no character."""
        if control := _C1.match(data, position):
            return control.end()
        if self._text is _UTF8_TEXT and data[position] >= 0xA0:
            if _UNFINISHED_CHARACTER.match(data, position):
                return self._wait(data, position)
            if not out.endswith(_REPLACEMENT):
                out += _REPLACEMENT
        return position + 1

    def _take_csi(self, data: bytes, sequence: re.Match[bytes], out: bytearray) -> int:
        end = sequence.end()
        if end == len(data):
            return self._wait(data, sequence.start())
        final = data[end]
        if not 0x40 <= final <= 0x7E:
            return end  # it is broken off
        parameters = sequence[1]
        if final in b"hl" and parameters[:1] == b"?":
            for mode in parameters[1:].split(b";"):  # one by one: one of several may be allowed
                out += self._mode(mode + bytes((final,)))
        elif _is_allowed(final, parameters):
            out += b"\x1b[" + parameters + bytes((final,))
            self._note(final, parameters)
        return end + 1

    def _mode(self, change: bytes) -> bytes:
        if change in self._modes:
            self._restore[change] = self._modes[change]
        elif change in self._opposites:
            self._restore.pop(self._opposites[change], None)
        else:
            return b""
        return b"\x1b[?" + change

    def _note(self, final: int, parameters: bytes) -> None:
        key = bytes((final,))
        if final in b"mr" and parameters.strip(b"0"):
            self._restore[key] = _RESET_STYLE if final == ord("m") else _RESET_REGION
        else:
            self._restore.pop(key, None)

    def _take_escape(self, data: bytes, escape: re.Match[bytes], out: bytearray) -> int:
        intermediates, final = escape.groups()
        if not final and escape.end() == len(data):
            return self._wait(data, escape.start())
        if (final and not intermediates and final[0] in _ESCAPES) or escape[0] in self._escapes:
            out += escape[0]
        return escape.end()

    def _wait(self, data: bytes, start: int) -> int:
        """Keep what may be completed by the next piece, unless it is too long to be of use."""
        if len(data) - start <= _MAX_SEQUENCE:
            self._pending = data[start:]
        return len(data)

    def _skip_string(self, data: bytes, position: int) -> int:
        end = _END_OF_STRING.search(data, position)
        if end is None:
            # Within a character 9C is no ST. It is known by the byte before it: any that is not ASCII will do.
            last = data[-1:]
            self._pending = last if last == b"\xc2" else b"\xff" if last >= b"\x80" else b""
            return len(data)
        if end[0] == b"\x1b" and end.end() == len(data):
            self._pending = b"\x1b"  # of ESC \, or of another sequence
            return len(data)
        self._is_in_string = False
        if end[0] == b"\n":
            return end.start()
        if end[0] == b"\x1b" and data[end.end()] != ord("\\"):
            return end.start()
        return end.end() + (end[0] == b"\x1b")


def _is_allowed(final: int, parameters: bytes) -> bool:
    if final not in _FINALS or len(parameters) > _MAX_SEQUENCE or _NUMBERS.fullmatch(parameters) is None:
        return False
    return final != ord("J") or _ERASE_SCROLLBACK.fullmatch(parameters) is None
