"""The key that detaches a terminal from a job, in every way in which terminals send it.

Must not know what detaching is.
"""

import re
from typing import Final, NamedTuple, Self

from shellrunner import ascii_text

DEFAULT: Final = "ctrl-\\"
NONE: Final = "none"
_KEY: Final = re.compile(r"ctrl-([a-z\]\\^_])", re.IGNORECASE | re.ASCII)


class DetachKey(NamedTuple):
    """A key with Ctrl; `name` is as it is shown, `pattern` matches what terminals send for it (None: no key)."""

    name: str
    pattern: re.Pattern[bytes] | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `ctrl-]` or `none`.

        Raises:
            ValueError: it is neither.
        """
        if text == NONE:
            return cls("", None)
        key = _KEY.fullmatch(text)
        if key is None:
            raise ValueError(f"invalid key {text!r}: expected ctrl- and a letter or one of ] \\ ^ _, or {NONE}")
        letter = ascii_text.upper(key[1])
        code = ord(ascii_text.lower(key[1]))
        # Programs may have put the terminal into a mode in which it sends the key with its modifier: modifyOtherKeys
        # of xterm, and CSI u, which kitty's protocol extends by the kind of event (1 or none: pressed).
        extended = rf"\x1b\[27;5;{code}~|\x1b\[{code};5(?::1)?u"
        return cls(f"Ctrl-{letter}", re.compile(rf"\x{ord(letter) & 0x1F:02x}|{extended}".encode()))

    def split(self, keys: bytes) -> tuple[bytes, bool]:
        """Return what was typed before the key, and whether it was pressed."""
        found = self.pattern.search(keys) if self.pattern else None
        return (keys[: found.start()], True) if found else (keys, False)
