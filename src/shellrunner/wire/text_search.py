"""Find a text in bytes of output, in the charset of the output, and count its lines.

Pure functions and plain values. Must not know where the bytes are stored.

It is the text that is encoded, not the output that is decoded: so a search is nearly as fast as memory. If case does
not matter, bytes are folded by a table where each is a character (and ASCII is, in UTF-8); any other text becomes an
expression with every character in each of its cases. In the charsets of several bytes, except UTF-8, a match that
begins in the middle of a character is none.

An expression compares up to the whole text at every place (output of one letter, a text of the same letter), and the
module `re` holds the interpreter's lock all the while. So `TextSearch.slice_size` says how much to search at once.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from shellrunner.wire.text import Decoder, line_ends

_BYTES: Final = bytes(range(256))
_MAX_LOOK_BACK: Final = 4096  # bytes before a place in which the beginning of a character is looked for
_MAX_SLICE: Final = 1 << 18  # bytes that are searched at once …
_MAX_STEPS: Final = 1 << 22  # … and comparisons of a character, or what takes as long, that this may take: some 20 ms
_BOUNDARY_STEPS: Final = 64  # that take as long as to see whether a character begins at a place
_UTF_8: Final = "utf-8"


class Span(NamedTuple):
    """Where a match begins and ends in the bytes that were searched."""

    begin: int
    end: int


_FindFirst = Callable[[bytes, int], Span | None]  # from a place on


class TextSearch:
    """A text that is looked for in output of one charset.

    max_length: of a match, in bytes. slice_size: how many bytes to search at once, so that others are served.
    """

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
        steps = len(text) if self._fold is None and any(len(each) > 1 for each in cases) else 1
        if self._has_inner_matches:
            steps += _BOUNDARY_STEPS
        self.slice_size = min(_MAX_SLICE, _MAX_STEPS // steps)

    @property
    def _has_inner_matches(self) -> bool:
        """Whether the bytes of a text may be found where it is not: within characters."""
        return not self._is_single_byte and self._charset != _UTF_8

    def find(self, data: bytes, begin: int, end: int, *, offset: int) -> Iterator[Span]:
        """Yield the matches that begin in `data[begin:end]`, none of which overlaps the one before.

        `offset` is where `data` begins in the output.
        """
        part = data[begin : end + self.max_length - 1]
        if not self._is_possible or (self._skips_ascii and part.isascii()):
            return
        if self._fold is not None:
            part = part.translate(self._fold)
        begins_character = self._boundaries(data, begin, offset)
        at = 0
        while (found := self._find_first(part, at)) is not None and begin + found.begin < end:
            if begins_character(begin + found.begin):
                yield Span(begin + found.begin, begin + found.end)
                at = found.end
            else:
                at = found.begin + 1

    def _boundaries(self, data: bytes, begin: int, offset: int) -> Callable[[int], bool]:
        """Return what says whether a character begins at a place of `data`; the places ascend, from `begin` on."""
        if not self._has_inner_matches:
            return lambda _: True
        if self._width > 1:
            return lambda at: (offset + at) % self._width == 0
        return _Boundaries(data, begin, self._charset).is_boundary


class _Boundaries:
    """Where the characters of some bytes begin, in a charset of one or several bytes each; decodes each byte once."""

    def __init__(self, data: bytes, begin: int, charset: str) -> None:
        """Be asked about places from `begin` on."""
        self._data, self._charset = data, charset
        self._decoded = max(0, begin - _MAX_LOOK_BACK)
        self._decoder = Decoder(charset)

    def is_boundary(self, at: int) -> bool:
        """Return whether a character begins at this place, which is behind those that were asked about before."""
        # A newline and a blank are no parts of other characters, so a character begins behind them.
        synchronized = max(self._data.rfind(byte, self._decoded, at) for byte in (b"\n", b" ")) + 1
        if synchronized:
            self._decoder, self._decoded = Decoder(self._charset), synchronized
        self._decoder.feed(self._data[self._decoded : at])
        self._decoded = at
        return self._decoder.held == 0


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
