"""Bytes of output as text: charsets and their names on the wire, decoders that can be resumed, and excerpts.

Pure functions and plain values. Must not know where the bytes are stored.
"""

import codecs
import re
from typing import NamedTuple

# Names that IANA's registry has otherwise than Python, beside the families of `label`.
_LABELS = {
    "ascii": "US-ASCII",
    "big5hkscs": "Big5-HKSCS",
    "euc_jp": "EUC-JP",
    "euc_kr": "EUC-KR",
    "kz1048": "KZ-1048",
    "mac-roman": "macintosh",
    "shift_jis": "Shift_JIS",
    "utf-16-be": "UTF-16BE",
    "utf-16-le": "UTF-16LE",
}
_CONTINUATIONS = re.compile(rb"[\x80-\xbf]{0,3}")
# In every multi-byte charset that is accepted, a byte below "0" is a character by itself.
_BOUNDARY = re.compile(rb"[\x00-\x2f]")
_FAR = 4096  # bytes to look for one; whoever writes more without a blank or newline gets a guess
_HIGH_BYTE = {"utf-16-le": 1, "utf-16-be": 0}  # the one that tells the second half of a surrogate pair


class Decoder:
    """A stream's bytes as text; `held` bytes at its end are an unfinished character."""

    def __init__(self, charset: str) -> None:
        """Start at the boundary of a character."""
        self._decoder = codecs.getincrementaldecoder(charset)("replace")
        self.held = 0

    def feed(self, data: bytes) -> str:
        """Return the characters that `data` completes."""
        text = self._decoder.decode(data)
        self.held = len(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        """Return what is unfinished at the end, as U+FFFD."""
        self.held = 0
        return self._decoder.decode(b"", True)


class Excerpt(NamedTuple):
    """An output as text, whole or cut."""

    text: str
    truncated: bool


def label(charset: str) -> str:
    """The charset's name for `Content-Type`, as IANA has it (and Python, and browsers, if they have it at all)."""
    for python, iana in (("iso8859-", "ISO-8859-"), ("cp125", "windows-125"), ("cp", "IBM")):
        if charset.startswith(python):
            return charset.replace(python, iana)
    return _LABELS.get(charset, charset)


def decode(data: bytes, charset: str) -> Excerpt:
    """All of an output; bytes that are no characters appear as U+FFFD."""
    return Excerpt(data.decode(charset, "replace"), truncated=False)


def excerpt(head: bytes, tail: bytes, *, size: int, charset: str) -> Excerpt:
    """The first and last bytes of `size` around a marker; neither cut splits a character."""
    decoder = Decoder(charset)
    first = decoder.feed(head)
    tail = tail[_boundary(tail, size - len(tail), charset) :]
    left_out = size - (len(head) - decoder.held) - len(tail)
    return Excerpt(f"{first}\n… {left_out} bytes left out …\n{tail.decode(charset, 'replace')}", truncated=True)


def _boundary(data: bytes, offset: int, charset: str) -> int:
    """Where in `data`, which lies at `offset` of its stream, a character begins."""
    if charset == "utf-8":
        continuations = _CONTINUATIONS.match(data)
        return continuations.end() if continuations else 0
    if charset in _HIGH_BYTE:
        at = offset % 2
        high = data[at + _HIGH_BYTE[charset] :][:1]
        return at + 2 if b"\xdc" <= high <= b"\xdf" else at
    found = _BOUNDARY.search(data, 0, _FAR)
    return found.start() if found else 0


def line_ends(data: bytes, offset: int, charset: str) -> list[int]:
    """Where lines end (the places after their newlines) in `data`, which lies at `offset`."""
    newline = "\n".encode(charset)
    width = len(newline)
    return [
        offset + found.end()
        for found in re.finditer(re.escape(newline), data)
        if (offset + found.start()) % width == 0
    ]
