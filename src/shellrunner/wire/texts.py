"""Bytes of output as text: charsets and their names on the wire, decoders that can be resumed, and excerpts.

Pure functions and plain values. Must not know where the bytes are stored.
"""

import codecs
import re
from typing import NamedTuple

# Names that IANA's registry or the WHATWG's list has otherwise than Python.
_LABELS = {
    "ascii": "us-ascii",
    "big5hkscs": "big5-hkscs",
    "cp866": "ibm866",
    "cp874": "windows-874",
    "cp932": "windows-31j",
    "cp949": "windows-949",
    "euc_jp": "euc-jp",
    "euc_kr": "euc-kr",
    "mac-cyrillic": "x-mac-cyrillic",
    "mac-roman": "macintosh",
    "utf-16-be": "utf-16be",
    "utf-16-le": "utf-16le",
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
    """The charset's name for `Content-Type`."""
    if charset.startswith("iso8859"):
        return charset.replace("iso8859", "iso-8859")
    if charset.startswith("cp125"):
        return charset.replace("cp125", "windows-125")
    return _LABELS.get(charset, charset)


def whole(data: bytes, charset: str) -> Excerpt:
    """All of an output; bytes that are no characters appear as U+FFFD."""
    return Excerpt(data.decode(charset, "replace"), truncated=False)


def cut(head: bytes, tail: bytes, *, size: int, charset: str) -> Excerpt:
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
