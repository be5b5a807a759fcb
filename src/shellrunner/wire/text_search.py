"""Find a text in bytes of output, in the charset of the output, and count its lines.

Pure functions and plain values. Must not know where the bytes are stored.

It is the text that is encoded, not the output that is decoded: so a search is nearly as fast as memory. If case does
not matter, bytes are folded by a table where each is a character (and ASCII is, in UTF-8); any other text becomes an
expression with every character in each of its cases. In the charsets of several bytes, except UTF-8, a match that
begins in the middle of a character is none.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from shellrunner.wire.text import Decoder, line_ends

_BYTES: Final = bytes(range(256))
_MAX_LOOK_BACK: Final = 4096  # bytes before a match in which the beginning of a character is looked for
_UTF_8: Final = "utf-8"


class Span(NamedTuple):
    """Where a match begins and ends in the bytes that were searched."""

    begin: int
    end: int


_FindFirst = Callable[[bytes, int], Span | None]  # from a place on


class TextSearch:
    """A text that is looked for in output of one charset. `max_length`: of a match, in bytes."""

    def __init__(self, text: str, charset: str, *, match_case: bool = False) -> None:
        """Look for `text`, which must not be empty. One that the charset does not have is never found."""
        self._charset = charset
        self._width = len("\n".encode(charset))
        self._is_single_byte = _is_single_byte(charset)
        cases = [_encoded_cases(character, charset, match_case=match_case) for character in text]
        self._is_possible = all(cases)
        self.max_length = sum(max(map(len, each), default=0) for each in cases)
        self._skips_ascii = charset == _UTF_8 and not text.isascii()
        self._fold = None if match_case else _fold_table(charset)
        if self._fold is not None and (self._is_single_byte or text.isascii()):
            self._find_first = _literal(text.encode(charset, "replace").translate(self._fold))
        else:
            self._fold = None
            self._find_first = _expression(cases)

    def find(self, data: bytes, begin: int, end: int, *, offset: int) -> Iterator[Span]:
        """Yield the matches that begin in `data[begin:end]`, none of which overlaps the one before.

        `offset` is where `data` begins in the output.
        """
        part = data[begin : end + self.max_length - 1]
        if not self._is_possible or (self._skips_ascii and part.isascii()):
            return
        if self._fold is not None:
            part = part.translate(self._fold)
        at = 0
        while (found := self._find_first(part, at)) is not None and begin + found.begin < end:
            if self._begins_character(data, begin + found.begin, offset):
                yield Span(begin + found.begin, begin + found.end)
                at = found.end
            else:
                at = found.begin + 1

    def _begins_character(self, data: bytes, at: int, offset: int) -> bool:
        if self._is_single_byte or self._charset == _UTF_8:
            return True
        if self._width > 1:
            return (offset + at) % self._width == 0
        first = max(0, at - _MAX_LOOK_BACK)
        # A newline is no part of another character, so each line begins with a character.
        decoder = Decoder(self._charset)
        decoder.feed(data[data.rfind(b"\n", first, at) + 1 or first : at])
        return decoder.held == 0


def count_lines(data: bytes, offset: int, charset: str) -> int:
    """Return how many lines end in `data`, which begins at `offset` of the output."""
    return data.count(b"\n") if len("\n".encode(charset)) == 1 else len(line_ends(data, offset, charset))


def _is_single_byte(charset: str) -> bool:
    return charset != _UTF_8 and len(_BYTES.decode(charset, "replace")) == len(_BYTES)


def _fold_table(charset: str) -> bytes | None:
    """Return the lower case of each byte, if a byte is a character; only of ASCII in UTF-8; else None."""
    if charset == _UTF_8:
        return _BYTES.lower()
    return bytes(map(_lower, _BYTES, [charset] * len(_BYTES))) if _is_single_byte(charset) else None


def _lower(byte: int, charset: str) -> int:
    try:
        lower = bytes([byte]).decode(charset).lower().encode(charset)
    except UnicodeError:
        return byte
    return lower[0] if len(lower) == 1 else byte


def _encoded_cases(character: str, charset: str, *, match_case: bool) -> list[bytes]:
    """Return a character in each of its cases that the charset has; the longest first."""
    upper = character.upper()
    cases = {character} if match_case else {character, character.lower(), upper, upper.lower()}
    encoded = {case.encode(charset, "ignore") for case in cases if len(case) == 1}
    return sorted(encoded - {b""}, key=lambda case: (-len(case), case))


def _expression(cases: list[list[bytes]]) -> _FindFirst:
    if all(len(each) == 1 for each in cases):
        return _literal(b"".join(each[0] for each in cases))
    pattern = re.compile(b"".join(b"(?:%b)" % b"|".join(map(re.escape, each)) for each in cases), re.DOTALL)

    def find_first(data: bytes, at: int) -> Span | None:
        found = pattern.search(data, at)
        return None if found is None else Span(*found.span())

    return find_first


def _literal(needle: bytes) -> _FindFirst:
    def find_first(data: bytes, at: int) -> Span | None:
        begin = data.find(needle, at)
        return None if begin < 0 else Span(begin, begin + len(needle))

    return find_first
