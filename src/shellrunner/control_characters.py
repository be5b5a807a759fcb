"""Characters that act on a terminal or deceive its reader, instead of being shown.

C0, DEL and C1 controls, what sets the direction of writing, what has no width, the line ends of Unicode, fillers that
look like blanks, tags, and lone surrogates. Used by the log and the command line. Must not know what is written.
"""

import re
from typing import Final

_DIRECTION: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
# Unicode's category Cf, and the combining grapheme joiner.
_NO_WIDTH: Final = (
    "\u00ad\u034f\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufeff"
    "\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f"
)
_FILLERS: Final = "\u115f\u1160\u17b4\u17b5\u3164\uffa0"
_LINE_ENDS: Final = "\u2028\u2029"
_AFTER_ASCII: Final = f"\x7f-\x9f{_DIRECTION}{_NO_WIDTH}{_FILLERS}{_LINE_ENDS}\ud800-\udfff"
_UNSAFE: Final = re.compile(f"[\x00-\x1f{_AFTER_ASCII}]")
_UNSAFE_BUT_BREAKS: Final = re.compile(f"[\x00-\x08\x0b-\x1f{_AFTER_ASCII}]")
_UNSAFE_IN_JSON: Final = re.compile(f"[{_AFTER_ASCII}]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SHORT_ESCAPES: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def is_utf8(text: str) -> bool:
    """Return whether the text can be sent as UTF-8; Python decodes invalid bytes to lone surrogates."""
    return text.isascii() or _SURROGATE.search(text) is None


def escape(text: str) -> str:
    """Return the text on one line, with each of these characters as an escape: `\\n`, `\\u202e`."""
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escaped, text)


def escape_lines(text: str) -> str:
    """Return the text with each of these characters as an escape, except line feeds and tabs."""
    return text if text.isascii() and text.isprintable() else _UNSAFE_BUT_BREAKS.sub(_escaped, text)


def escape_json(text: str) -> str:
    """Return a JSON text with these characters as its own escapes, so that it means the same.

    A JSON text has them within its strings only, except the breaks and blanks between its values, which remain.
    """
    return text if text.isascii() and "\x7f" not in text else _UNSAFE_IN_JSON.sub(_escaped_json, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _SHORT_ESCAPES.get(match[0]) or (f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}")


def _escaped_json(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
