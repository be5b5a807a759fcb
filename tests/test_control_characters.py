"""Characters that act on a terminal or deceive: escaped in the log, in messages, and in JSON on a terminal."""

import json
import os
import pty
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner import control_characters
from shellrunner.cli import boundary
from shellrunner.cli.ui.console import Console
from shellrunner.log import JsonLinesHandler

UNSAFE = "\x00\x1b\x7f\x80\x85\x9b\x9d\u00ad\u061c\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202e\u2060"
UNSAFE += "\u2066\u2069\ufeff\U000e0001\udc9b\udfff\u3164\u180e"
SAFE = "aЖ日é😀 ~"


@settings(deadline=None)
@given(st.text(st.characters() | st.sampled_from(UNSAFE)))
def test_json_means_the_same_when_it_is_escaped(text: str) -> None:
    """The escapes are JSON's own, whatever the text is, and no control or format character is left."""
    written = control_characters.escape_json(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(written) == {"text": text}
    assert not [letter for letter in written if unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}]
    assert not set(UNSAFE) & set(written)


def test_each_kind_of_character_is_escaped_visibly() -> None:
    """Each one is an escape of ASCII; letters, signs and blanks are themselves, and breaks where they may be."""
    for letter in f"{UNSAFE}\ud800":
        escaped = control_characters.escape(letter)
        assert escaped.isascii()
        assert escaped.isprintable()
        assert control_characters.escape_lines(letter) == escaped
    assert control_characters.escape(f"{SAFE}\n\t\r") == SAFE + "\\n\\t\\r"
    assert control_characters.escape_lines(f"{SAFE}\n\t\r") == f"{SAFE}\n\t\\r"


def test_a_log_line_has_no_such_character() -> None:
    """A line of the log is JSON that can be read on a terminal, in keys, values and lists."""
    near, far = os.pipe()
    text = f"{SAFE}{UNSAFE}\n"
    assert JsonLinesHandler(far).write(20, f"event {text}", "x", {"path": text, "more": {text: [text]}})
    os.close(far)
    with os.fdopen(near, "rb") as file:
        written = file.read().decode().removesuffix("\n")
    assert not set(UNSAFE + "\n") & set(written)
    line = json.loads(written)
    assert (line["path"], line["more"], line["event"]) == (text, {text: [text]}, f"event {text}")


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_json_is_escaped_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    """On a terminal a document has escapes; in a pipe it is exact, apart from what UTF-8 cannot have."""
    near, far = pty.openpty() if is_terminal else os.pipe()
    monkeypatch.setattr("shellrunner.cli.ui.console.STDOUT", far)
    monkeypatch.setitem(__import__("shellrunner.cli.ui.console", fromlist=["x"])._FD_NAMES, far, "standard output")
    await Console().print_json({"command": f"{SAFE}{UNSAFE}"})
    written = os.read(near, 4096).decode()
    os.close(near)
    os.close(far)
    assert json.loads(written) == {"command": f"{SAFE}{UNSAFE}"}
    assert SAFE in written
    assert ("\u202e" in written) == (not is_terminal)


def test_messages_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    """What a server or an argument brings into a message does not act on the terminal that shows it."""
    Console().report(f"a{UNSAFE}\nb", required=True)

    def fail() -> None:
        raise OSError(5, f"reason{UNSAFE}", f"file{UNSAFE}")

    boundary.exit_code_of(fail, None)
    written = capfd.readouterr().err
    assert not set(UNSAFE) & set(written)
    assert "\\u202e" in written
    assert written.count("\n") == 3
