"""Arguments and files that nobody means to give: an error in words, and nothing is done."""

import os
from pathlib import Path

import click
import pytest

from shellrunner.cli.verb_group import VERBS, cli
from tests.cli.test_verbs import cancelled
from tests.support.command_line import Typist
from tests.support.service import Service

in_the_loop = pytest.mark.asyncio(loop_scope="session")

NOT_UTF8 = os.fsdecode(b"caf\xe9")  # as Python decodes an argument
DIGITS = "9" * 5000  # more than `int` takes
WORDS = {
    "signal": ["TERM"],
    "send": ["text"],
    "run": ["true"],
    "submit": ["true"],
    "batch": ["/dev/null"],
    "rm": ["1"],
}
AT_HOME = {
    "serve", "worker", "migrate", "backup", "restore", "token", "install", "uninstall", "unit", "completion",
}  # fmt: skip  # no service is asked


def text_options() -> dict[str, str]:
    """Return the options that take a text, each with a verb that has it."""
    found: dict[str, str] = {}
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        for each in command.params:
            is_text = not isinstance(each.type, (click.Path, click.File)) and not getattr(each, "is_flag", True)
            if is_text and verb not in AT_HOME:
                found.setdefault(each.opts[-1], verb)
    return found


def call(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return the exit code and the errors of the command line, in this process."""
    try:
        with cli.make_context("shellrunner", list(arguments)) as context:
            cli.invoke(context)
        code = 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, capfd.readouterr().err


def test_no_value_of_an_option_ends_in_a_traceback(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are no UTF-8 and numbers without end are errors that name the option."""
    monkeypatch.setenv("SHELLRUNNER_URL", "unix:/nowhere/socket")  # only what is valid gets that far
    for option, verb in text_options().items():
        for value in (NOT_UTF8, f"label={NOT_UTF8}", DIGITS, f"memory={DIGITS}.5"):
            code, errors = call(capfd, verb, option, value, *WORDS.get(verb, []))
            assert code in {1, 2, 125}, (option, value)
            assert "Exceeds the limit" not in errors, (option, value)
            assert option in errors or option == "--server" or "/nowhere" in errors, (option, value, errors)
            assert value.isascii() or "/nowhere" not in errors, (option, value)


@pytest.mark.heavy
@in_the_loop
async def test_bytes_that_are_no_utf8_reach_files_and_input(shared: Service, typist: Typist) -> None:
    """Names of files and what `send` writes may be any bytes."""
    name = os.path.join(os.fsencode(typist.home), b"caf\xe9")
    Path(os.fsdecode(name)).write_bytes(b"from a file\n")
    done = await typist.run("run", "--stdin", os.fsdecode(name), "cat")
    assert (done.code, done.out) == (0, b"from a file\n")
    reader = await shared.submit("cat", stdin={"stream": True})
    assert (await typist.run("send", "--end", NOT_UTF8, reader)).code == 0
    await shared.result(reader)
    assert (await shared.raw(reader)) == b"caf\xe9\n"


UNREADABLE_LINES = {
    b'{"a":' + b"[" * 100_000: "line 2 is not valid JSON: it is nested too deeply",
    b'{"command": "true", "timeout": NaN}': "line 2 is not valid JSON: NaN is not a JSON value",
    b'{"command": "true", "command": "false"}': "line 2 is not valid JSON: it has the key 'command' twice",
    b'{"command": "\\ud800"}': "line 2 is not valid JSON: it has half of a surrogate pair",
    b"caf\xe9": "line 2 is not valid UTF-8",
}


def test_a_line_that_cannot_be_read_is_named(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The error says which line it is and what is wrong with it, before anything is sent."""
    for line, expected in UNREADABLE_LINES.items():
        (tmp_path / "jobs").write_bytes(b"true\n" + line + b"\ntrue\n")
        code, errors = call(capfd, "batch", str(tmp_path / "jobs"))
        assert code == 125
        assert expected in errors
    (tmp_path / "jobs").write_bytes(b"true\n")
    (tmp_path / "input").write_bytes(b"caf\xe9")
    code, errors = call(capfd, "batch", "--stdin", str(tmp_path / "input"), str(tmp_path / "jobs"))
    assert (code, "--stdin" in errors) == (125, True)


@in_the_loop
async def test_a_bad_line_of_a_batch_is_named_and_nothing_is_submitted(shared: Service, typist: Typist) -> None:
    """Where the service refuses lines, the errors name them, and no other line is submitted either."""
    lines = b'true\n{"command": "true", "env": ["A"]}\n{"command": "true", "env": "A"}\na\0b\ntrue\n'
    done = await typist.run("batch", "--label", "test=bad-line", "-", given=lines)
    assert (done.code, done.out) == (125, b"")
    expected = ["line 2: --env", "line 3: --env", "line 4: COMMAND"]
    assert [each.rpartition(":")[0] for each in done.err.strip().split("; ")] == expected
    assert (await shared.get("/api/jobs?label=test:bad-line"))[2]["jobs"] == []


@pytest.mark.heavy
@in_the_loop
async def test_lines_of_a_batch_end_in_a_line_feed(shared: Service, typist: Typist) -> None:
    """A byte order mark is no part of the first one, CRLF ends one, and other breaks are part of a command."""
    lines = b'\xef\xbb\xbf{"command": "true", "name": "first"}\r\nprintf "a\rb"\n: \xe2\x80\xa8\x85'.replace(
        b"\x85", b"\xc2\x85"
    )
    done = await typist.run("batch", "--hold", "-", given=lines)
    jobs = [(await shared.get(f"/api/jobs/{number}"))[2] for number in done.out.decode().split()]
    assert [(job["name"], job["command"]) for job in jobs] == [
        ("first", "true"), (None, 'printf "a\rb"'), (None, ": \u2028\x85"),
    ]  # fmt: skip
    for job in jobs:
        await cancelled(shared, job["job_id"])
    (typist.home / "input").write_bytes(b"a\r\nb")
    done = await typist.run("batch", "--stdin", typist.home / "input", "-", given=b"cat")
    assert (await shared.result(int(done.out)))["stdout"] == "a\r\nb"


@pytest.mark.heavy
@in_the_loop
async def test_a_batch_of_several_requests_says_how_far_it_came(shared: Service, typist: Typist) -> None:
    """Where a later request is refused, the error says which jobs were submitted before."""
    lines = "true\n" * 1000 + "true\n" + '{"command": "true", "timeout": -1}\n'
    done = await typist.run("batch", "--hold", "--clean", "--label", "test=far", "-", given=lines.encode())
    assert (done.code, len(done.out.split())) == (125, 1000)
    assert done.err.startswith("line 1002: --timeout: ")
    assert done.err.endswith("; the jobs before line 1001 were submitted\n")
    assert (await typist.run("cancel", "-y", "--filter", "label=test:far")).err == "1000 jobs are being cancelled\n"


EDITORS = {
    "printf '\\377' >>": "what was edited is not valid UTF-8",
    "printf '{' >>": "what was edited is not valid JSON: ",
    "printf '[]' >": "what was edited is not valid JSON: it is not an object",
    "exit 3; :": "Editing failed",
    "true": "nothing was changed",
}


@pytest.mark.heavy
@in_the_loop
async def test_an_editor_that_fails_changes_nothing(shared: Service, typist: Typist) -> None:
    """Whatever an editor leaves, one line says what is wrong, and the job is as it was."""
    (typist.home / "editor").touch(0o755)
    number = await shared.submit("echo 'a\nb\x1b]0;t\x07'\n// \u2028", held=True, labels={"odd": "\x85\u2028\u202e"})
    typist.environment["VISUAL"] = str(typist.home / "editor")
    for script, expected in EDITORS.items():
        (typist.home / "editor").write_text(f'#!/bin/sh\n{script} "$1"\n')
        done = await typist.run("edit", number)
        assert (done.code, done.err.count("\n"), expected in done.err) == (1, 1, True), (script, done.err)
    for name in ("'", str(typist.home / "missing")):
        typist.environment["VISUAL"] = name
        done = await typist.run("edit", number)
        assert (done.code, done.err.count("\n")) == (1, 1), done.err
    # A command and labels with line ends of all kinds are shown in a form that can be edited.
    (typist.home / "editor").write_text('#!/bin/sh\nsed -i \'s/"priority": 0/"priority": 7/\' "$1"; cat "$1"\n')
    typist.environment["VISUAL"] = str(typist.home / "editor")
    done = await typist.run("edit", number)
    assert (done.code, done.err) == (0, f"job {number} was changed: priority\n")
    assert not set(done.out.decode()) & set("\x1b\x07\x85\u2028\u202e")
    await cancelled(shared, number)


@pytest.mark.heavy
@in_the_loop
async def test_what_was_typed_wrongly_is_edited_again(shared: Service, typist: Typist) -> None:
    """At a terminal the editor is opened once more with the text and what is wrong with it, until that is left so."""
    number = await shared.submit("true", held=True)
    typist.environment["VISUAL"] = str(typist.home / "editor")
    (typist.home / "editor").touch(0o755)
    wrong = 'sed -i \'s/"priority": 0/"priority": 3/; s/^}/}x/\' $1'
    correct = f"grep -q '^// not valid JSON' $1 && sed -i 's/}}x/}}/' $1 || {wrong}"
    for script, code, expected in (
        (correct, 0, b"was changed: priority"),
        ("echo x >> $1; sed -i '/^x/!d' $1", 1, b"JSON"),
    ):
        (typist.home / "editor").write_text(f"#!/bin/sh\n{script}\n")
        async with typist.at_terminal("edit", number) as screen:
            await screen.shows(expected)
            assert await screen.code() == code
    await cancelled(shared, number)
