"""Modes of a terminal that are read from output, the key that detaches, and what is played again; pure functions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.cli.terminal.detach_key import DEFAULT, DetachKey
from shellrunner.cli.terminal.modes import TerminalModes
from shellrunner.cli.ui.terminal_filter import TerminalFilter

# What programs send, and pieces of it.
SEQUENCES = (
    b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?1h\x1b=", b"\x1b[?1l\x1b>", b"\x1b[?25l", b"\x1b[?25h",
    b"\x1b[?1000;1006h", b"\x1b[?2004h", b"\x1b[>4;2m", b"\x1b[>4m", b"\x1b[2 q", b"\x1b[>1u", b"\x1b[<u", b"\x1bc",
    b"text", b"\x1b", b"[", b"?",
)  # fmt: skip
OUTPUT = st.lists(st.sampled_from(SEQUENCES), max_size=12).map(b"".join)


def modes(*pieces: bytes) -> tuple[bool, bytes, bytes, bytes]:
    """Return everything that is known after this output."""
    found = TerminalModes()
    for piece in pieces:
        found.feed(piece)
    return found.is_full_screen, found.enter_screen(), found.enter_input(), found.leave()


@settings(deadline=None)
@given(OUTPUT, st.integers(0, 100))
def test_output_may_be_cut_anywhere(output: bytes, at: int) -> None:
    """Two pieces mean the same as one."""
    assert modes(output[:at], output[at:]) == modes(output)


@settings(deadline=None)
@given(OUTPUT)
def test_a_terminal_that_has_left_has_nothing_of_it(output: bytes) -> None:
    """After the output and what leaves, a terminal is as one that has seen neither."""
    assert modes(output, modes(output)[3]) == modes()


def test_what_a_program_changes_is_known() -> None:
    """An editor's start is known: the screen, the keys, the mouse, the cursor."""
    start = b"\x1b[?1049h\x1b[22;0;0t\x1b[?1h\x1b=\x1b[?2004h\x1b[?1006;1000h\x1b[?25l\x1b[>4;2m"
    is_full_screen, screen, keys, leaving = modes(start)
    assert is_full_screen
    assert screen == b"\x1b[?1049h\x1b[H\x1b[2J"
    assert keys == b"\x1b[?1h\x1b[?1000h\x1b[?1006h\x1b[?2004h\x1b=\x1b[>4;2m"
    assert leaving.endswith(b"\x1b[?1049l")
    assert b"\x1b[?25h" in leaving


@pytest.mark.parametrize("keys", [b"\x1c", b"\x1b[27;5;92~", b"\x1b[92;5u", b"\x1b[92;5:1u"])
def test_the_key_is_recognized_in_every_form(keys: bytes) -> None:
    """As a control character, and as terminals send it when programs ask for modifiers."""
    key = DetachKey.parse(DEFAULT)
    assert key.split(b"ab" + keys + b"cd") == (b"ab", True)
    assert key.split(b"ab\x1d") == (b"ab\x1d", False)
    assert DetachKey.parse("none").split(keys) == (keys, False)


@settings(deadline=None)
@given(st.sampled_from("abcdefghijklmnopqrstuvwxyz]\\^_"))
def test_any_key_with_ctrl_may_be_chosen(letter: str) -> None:
    """The key is the control character of its letter, in either case."""
    code = bytes((ord(letter.upper()) & 0x1F,))
    for text in (f"ctrl-{letter}", f"Ctrl-{letter.upper()}"):
        assert DetachKey.parse(text).split(code) == (b"", True)


@pytest.mark.parametrize("text", ["", "x", "ctrl-", "ctrl-1", "ctrl-ä", "ctrl-ab", "ctrl-["])
def test_what_is_no_such_key_is_an_error(text: str) -> None:
    """Escape begins the sequences of other keys, so it cannot be chosen."""
    with pytest.raises(ValueError, match="invalid key"):
        DetachKey.parse(text)


def test_what_is_played_again_draws_but_does_not_ask() -> None:
    """What draws is kept: the other screen, lines and corners; questions, titles and modes of keys are not."""
    data = b"\x1b[?1049h\x1b(0lqk\x1b(B\x1b[?1;25l\x1b[6n\x1b[c\x1b]0;title\x07\x1b[?1000h\x1b[31mred"
    full = TerminalFilter(is_full_screen=True)
    assert full.feed(data) == b"\x1b[?1049h\x1b(0lqk\x1b(B\x1b[?25l\x1b[31mred"
    assert full.end() == b"\x1b[?1049l\x1b[?25h\x1b[0m"
