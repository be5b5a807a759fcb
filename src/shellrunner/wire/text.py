"""Bytes of output as text: charset names for HTTP, decoders that can be resumed, and excerpts.

Pure functions and plain values. Must not know where the bytes are stored.
"""

import codecs
import re
from typing import NamedTuple

# Charsets whose name in IANA's registry differs from Python's, beside the families in `label`.
_IANA_NAMES = {
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
# In every multi-byte charset that is accepted, a byte below "0" is a character of its own.
_BOUNDARY = re.compile(rb"[\x00-\x2f]")
_MAX_BOUNDARY_SEARCH = 4096  # bytes; without a blank or newline in them, a character may be split
_HIGH_BYTE = {"utf-16-le": 1, "utf-16-be": 0}  # the byte of a code unit that marks the second half of a pair


class Decoder:
    """Decodes a stream piece by piece; its last `held` bytes are an incomplete character."""

    def __init__(self, charset: str) -> None:
        """Start at a character boundary."""
        self._decoder = codecs.getincrementaldecoder(charset)("replace")
        self.held = 0

    def feed(self, data: bytes) -> str:
        """Return the characters that `data` completes."""
        text = self._decoder.decode(data)
        self.held = len(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        """Return the incomplete character at the end as U+FFFD."""
        self.held = 0
        return self._decoder.decode(b"", True)


class Excerpt(NamedTuple):
    """An output as text, whole or shortened."""

    text: str
    truncated: bool


def label(charset: str) -> str:
    """Return the charset's IANA name, for `Content-Type`; Python and browsers know it if they have the charset."""
    for python, iana in (("iso8859-", "ISO-8859-"), ("cp125", "windows-125"), ("cp", "IBM")):
        if charset.startswith(python):
            return charset.replace(python, iana)
    return _IANA_NAMES.get(charset, charset)


def decode(data: bytes, charset: str) -> Excerpt:
    """Return all of an output as text; invalid bytes become U+FFFD."""
    return Excerpt(data.decode(charset, "replace"), truncated=False)


def excerpt(head: bytes, tail: bytes, *, size: int, charset: str) -> Excerpt:
    """Return the beginning and the end of an output of `size` bytes around a marker; no character is split."""
    decoder = Decoder(charset)
    first = decoder.feed(head)
    tail = tail[_boundary(tail, size - len(tail), charset) :]
    left_out = size - (len(head) - decoder.held) - len(tail)
    return Excerpt(f"{first}\n… {left_out} bytes left out …\n{tail.decode(charset, 'replace')}", truncated=True)


def _boundary(data: bytes, offset: int, charset: str) -> int:
    """Return where in `data`, which begins at `offset` of its stream, the first character begins."""
    if charset == "utf-8":
        continuations = _CONTINUATIONS.match(data)
        return continuations.end() if continuations else 0
    if charset in _HIGH_BYTE:
        at = offset % 2
        high = data[at + _HIGH_BYTE[charset] :][:1]
        return at + 2 if b"\xdc" <= high <= b"\xdf" else at
    match = _BOUNDARY.search(data, 0, _MAX_BOUNDARY_SEARCH)
    return match.start() if match else 0


def line_ends(data: bytes, offset: int, charset: str) -> list[int]:
    """Return the positions after the newlines in `data`, which begins at `offset` of its stream."""
    newline = "\n".encode(charset)
    width = len(newline)
    return [
        offset + match.end()
        for match in re.finditer(re.escape(newline), data)
        if (offset + match.start()) % width == 0
    ]
