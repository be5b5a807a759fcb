"""What of a command's output reaches a terminal: text, colours and moves within the screen, nothing else."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.cli.ui.terminal_filter import TerminalFilter

PASSED = {
    "text": "Жук 日本 😀 é \t\b\r\n".encode(),
    "colours": b"\x1b[1;31mred\x1b[38;5;200m\x1b[48;2;1;2;3m\x1b[4:3m\x1b[0m\x1b[m",
    "a progress bar": b"\r\x1b[2K50 %\x1b[1A\x1b[10;20H\x1b[5D\x1b[K\x1b[s\x1b[u\x1b7\x1b8\x1bM",
    "the cursor": b"\x1b[?25l\x1b[?25h\x1b[?7l\x1b[?7h\x1b[?2026h\x1b[?2026l",
    "a clear screen": b"\x1b[2J\x1b[H\x1b[J\x1b[1J",
    "a region": b"\x1b[2;10r\x1b[S\x1b[T\x1b[r",
}
REMOVED = {
    "the clipboard": b"\x1b]52;c;cm0gLXJmIC8=\x07",
    "the clipboard, asked": b"\x1b]52;c;?\x1b\\",
    "titles": b"\x1b]0;t\x07\x1b]1;t\x07\x1b]2;t\x1b\\\x1b]l;t\x9c\x1bkt\x1b\\",
    "a link": b"\x1b]8;;http://evil.test\x1b\\\x1b]8;;\x1b\\",
    "the palette": b"\x1b]4;1;?\x07\x1b]10;?\x07\x1b]11;?\x1b\\\x1b]104\x07",
    "a notification": b"\x1b]9;hi\x07\x1b]777;notify;a;b\x07\x1b]1337;File=name=x:AA\x07\x1b]50;?\x07",
    "strings": b"\x1bP$qm\x1b\\\x1bP+q544e\x1b\\\x1bP1;2qsixel\x1b\\\x1b_Gkitty\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\",
    "questions": b"\x1b[c\x1b[0c\x1b[>c\x1b[=c\x1b[5n\x1b[6n\x1b[?6n\x1b[?15n\x1b[x\x1b[14t"
    b"\x1b[21t\x1b[?1$p\x1b[?u\x1bZ\x05",
    "modes": b"\x1b[?1000h\x1b[?1003h\x1b[?2004h\x1b[?1049h\x1b[?1h\x1b[4h\x1b[2h\x1b[20h"
    b"\x1b[>4;2m\x1b[>1u\x1b=\x1b>\x1b[?3h",
    "other": b"\x1bc\x1b[!p\x1b[5i\x1b[4i\x1b[?5i\x1b(0\x1b)B\x1b#8\x1b%G\x1bN\x1bO\x1b[2 q"
    b"\x1b[3J\x1b[2;3J\x1b[0;0;1$r\x1b[g",
    "C0": b"\x00\x01\x05\x07\x0e\x0f\x11\x13\x18\x1a\x1c\x7f",
    "C1 of eight bits": b"\x9d52;c;AA\x07\x9b6n\x90q\x1b\\\x9fa\x9c\x85\x8e\x9a",
    "C1 in UTF-8": "\x9d52;c;AA\x07\x9b6n\x90q\x9c\x9fa\x9c\x85\x8e\x9a".encode(),
    "an escape within": b"\x1b]0;a\x1b]52;c;AA\x07\x1b[\x1b[6n\x1b\x1b[c\x1b(\x1b[c",
    "a text's end within": b"\x1b]0;\xc3\x9c\xe2\x82\x9c;?\x07",
}


def filtered(data: bytes, *, is_utf8: bool = True) -> bytes:
    return TerminalFilter(is_utf8=is_utf8).feed(data)


@pytest.mark.parametrize("data", PASSED.values(), ids=PASSED)
def test_what_output_needs_passes(data: bytes) -> None:
    """Text in any script, colours, and moves and erasures within the screen are unchanged."""
    assert filtered(data) == data


@pytest.mark.parametrize("data", REMOVED.values(), ids=REMOVED)
def test_what_acts_beyond_the_screen_is_removed(data: bytes) -> None:
    """Nothing is left of strings, questions, modes and resets, and what surrounds them is shown."""
    assert filtered(b"<" + data + b">") == b"<>"
    cut = TerminalFilter()
    assert b"".join(cut.feed(bytes([byte])) for byte in b"<" + data + b">") == b"<>"


def test_what_is_broken_hides_nothing_behind_its_line() -> None:
    """A string without an end ends with its line, and a sequence that is broken off ends there."""
    assert filtered(b"a\x1b]0;no end\nb") == b"a\nb"
    assert filtered(b"a\x1bPno end\r\nb") == b"a\nb"
    assert filtered(b"a\x1b[12\nb") == b"a\nb"
    assert filtered(b"a\x1b[" + b"1;" * 500 + b"mb") == b"ab"
    assert filtered(b"a\x1b]0;" + b"x" * 100_000 + b"\x07b") == b"ab"


def test_invalid_utf8_shows_as_such() -> None:
    """Invalid bytes become U+FFFD, so that no lenient decoder finds a control in them; other charsets stay."""
    replacement = "\ufffd".encode()
    for invalid in (
        b"\xc0\x9b6n",
        b"\xe0\x82\x9b6n",
        b"\xf0\x80\x82\x9b6n",
        b"\xff6n",
        b"\xed\xa0\x806n",
        b"\xe1\x9b6n",
    ):
        assert re.fullmatch(b"(?:" + replacement + b")+(?:6n)?", filtered(invalid)), invalid
    koi8 = "жук".encode("koi8-r")
    assert filtered(koi8, is_utf8=False) == koi8
    assert filtered(b"\x9b6n\xe1\x9b6n", is_utf8=False) == b"\xe1"


def test_the_terminal_is_restored() -> None:
    """Colours, the cursor, wrapping and the region that are left changed are restored, and only those."""
    for data, restore in (
        (b"\x1b[31mred", b"\x1b[0m"),
        (b"\x1b[31mred\x1b[0m", b""),
        (b"\x1b[?25l", b"\x1b[?25h"),
        (b"\x1b[?25l\x1b[?25h", b""),
        (b"\x1b[?7;2026;1000h", b"\x1b[?2026l"),
        (b"\x1b[2;5r", b"\x1b7\x1b[r\x1b8"),
        (b"text", b""),
    ):
        output = TerminalFilter()
        output.feed(data)
        assert (output.end(), output.end()) == (restore, b"")


PIECES = st.one_of(
    st.sampled_from([*PASSED.values(), *REMOVED.values()]),
    st.sampled_from(
        [b"\x1b", b"[", b"]", b"\\", b"\x9c", b"\xc2", b"\x07", b"?", b"52;c;?", b"6n", b"h", b"\n", b"\x9b"]
    ),
    st.binary(max_size=6),
    st.text(max_size=4).map(lambda text: text.encode(errors="replace")),
)
ALLOWED = re.compile(
    rb"(?:[\x08-\x0d\x20-\x7e]|\x1b[78DEM]|\x1b\[[0-9;:]*[@A-MPSTXZ`abdefmrsu]|\x1b\[\?(?:7|25|2026)[hl])*+"
)


@pytest.mark.heavy
@settings(deadline=None, max_examples=200)
@given(st.lists(PIECES, max_size=12).map(b"".join), st.lists(st.integers(0, 60), max_size=4), st.booleans())
def test_only_what_is_allowed_reaches_the_terminal(data: bytes, cuts: list[int], is_utf8: bool) -> None:
    """Whatever comes, and however it is cut, the terminal gets characters and allowed sequences only."""
    output, got, start = TerminalFilter(is_utf8=is_utf8), b"", 0
    for cut in [*sorted(cuts), len(data)]:
        got += output.feed(data[start:cut])
        start = max(start, cut)
    charset = "utf-8" if is_utf8 else "latin-1"
    text = got.decode(charset)
    assert not re.search("[\x80-\x9f\x7f]", text)
    assert ALLOWED.fullmatch(re.sub("[^\0-\x7f]", "x", text).encode())
