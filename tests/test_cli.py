"""The installed command line: its output and its exit codes."""

import contextlib
import os
import pwd
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import shellrunner
from shellrunner.cli.ui.help_examples import EXAMPLES
from shellrunner.cli.verb_group import VERBS, cli
from tests.support import prefork


def run(*arguments: Any, real_exec: bool = False, **environment: Any) -> Any:
    """Run the command line to its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("SHELLRUNNER_")}
    return prefork.run([*prefork.MODULE, *map(str, arguments)], env=inherited | environment, real_exec=real_exec)


def test_the_version_is_the_packages() -> None:
    """`--version` prints the name and the package's version."""
    done = run("--version", real_exec=True)
    assert done.stdout.split()[-1] == shellrunner.__version__
    assert "shellrunner" in done.stdout


@pytest.mark.heavy
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: Any) -> None:
    """`--help` exits with 0 and has examples, and every option, also of subcommands, has a help text."""
    done = run(verb, "--help")
    assert done.returncode == 0
    assert "Examples:\n    shellrunner " in done.stdout or verb == "completion"
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    commands = [command]
    commands += getattr(commands[0], "commands", {}).values()
    options = [option for command in commands for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.heavy
def test_a_wrong_configuration_is_refused_in_words(tmp_path: Path) -> None:
    """Exit code 2, one line per mistake on standard error, and no state directory is created."""
    config = tmp_path / "config.toml"
    config.write_text("[supervisor]\nmax_runing = 1\n")
    state = tmp_path / "state"
    done = run(
        "serve",
        "--config",
        config,
        "--port",
        "70000",
        "--state-dir",
        state,
        SHELLRUNNER_LOG__LEVEL="loud",
        real_exec=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "--port: server.port: must be at most 65535",
        f"{config}, line 2: supervisor.max_runing: unknown key, did you mean max_running?",
        "environment variable SHELLRUNNER_LOG__LEVEL: log.level: must be 'debug', 'info', 'warning' or 'error'",
    ]
    assert not state.exists()


@pytest.mark.heavy
def test_without_tokens_only_this_machine_is_served() -> None:
    """An address other than loopback is refused, and the message says why and what to do."""
    done = run("serve", "--host", "0.0.0.0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "--host: server.host: must be localhost, a loopback address or a Unix socket, because without "
        "tokens anybody who can connect may run commands. To listen on other addresses, create a token: shellrunner "
        "token create NAME\n"
    )


@pytest.mark.parametrize("arguments", [("serve", "--port", "many"), ("serve", "--prot", "1"), ("sevre",)])
def test_wrong_arguments_are_refused_without_a_traceback(arguments: Any) -> None:
    """Exit code 2 and a usage message."""
    done = run(*arguments, real_exec=arguments == ("sevre",))
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: ")
    assert "Traceback" not in done.stderr


@pytest.mark.heavy
def test_the_unit_starts_this_installation(tmp_path: Path) -> None:
    """ExecStart has the absolute paths of an existing program and of the configuration."""
    unit = run("unit", "--config", "x.toml").stdout.splitlines()
    (start,) = (line.removeprefix("ExecStart=") for line in unit if line.startswith("ExecStart="))
    program, *arguments = start.split()
    assert Path(program).is_absolute()
    assert os.access(program, os.X_OK)
    assert arguments[-3:] == ["serve", "--config", str(Path("x.toml").absolute())]
    version = [program, *arguments[:-3], "--version"]
    assert subprocess.run(version, capture_output=True, text=True, check=True).stdout == run("--version").stdout


@pytest.mark.heavy
def test_the_unit_runs_as_the_given_user() -> None:
    """--user sets user and group; the default is the caller."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert f"\nUser={me}\n" in run("unit", LOGNAME=me).stdout
    assert "\nUser=new-user\nGroup=new-user\n" in run("unit", "--user", "new-user").stdout
    assert "--config" not in run("unit").stdout


def test_a_closed_standard_descriptor_is_never_given_to_a_file() -> None:
    """Started with 0, 1 and 2 closed, the CLI opens /dev/null as all three before any other file."""
    code = """
import os, sys
from shellrunner import cli
sys.argv = ['shellrunner', '--version']
try: cli.main()
except SystemExit: pass
links = [os.readlink(f'/proc/self/fd/{fd}') for fd in range(3)]
os.write(9, ' '.join(links).encode())
"""
    reading, writing = os.pipe()
    subprocess.run(
        ["bash", "-c", f'exec 9>&{writing} {writing}>&-; exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code],
        pass_fds=[writing], check=True, timeout=30,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as output:
        assert output.read() == "/dev/null /dev/null /dev/null"


@pytest.mark.parametrize(
    ("word", "expected"), [("sbmit", "submit"), ("kill", "cancel"), ("status", "ps"), ("lgs", "logs")]
)
def test_a_misspelt_or_foreign_verb_gets_a_suggestion(word: str, expected: str) -> None:
    """A verb that does not exist is answered with the one that it resembles, or that does what it means elsewhere."""
    done = run(word)
    assert done.returncode == 2
    assert done.stderr.endswith(f"there is no verb {word!r}: did you mean `{expected}`?\n")
    assert run("xyzzy").stderr.endswith("there is no verb 'xyzzy': see `shellrunner --help`\n")


@pytest.mark.heavy
def test_the_server_may_be_named_before_the_verb() -> None:
    """`--server` counts before the verb too, also for the exit code of `run`; the one behind the verb wins."""
    wrong = "--server: invalid server address 'no:x': expected http://HOST:PORT, https://HOST or unix:/PATH\n"
    for verb, code in ((("ps",), 2), (("run", "true"), 125)):
        for arguments in (("--server", "no:x", *verb), ("--server", "x", verb[0], "--server=no:x", *verb[1:])):
            done = run(*arguments)
            assert (done.returncode, done.stderr) == (code, wrong)


@pytest.mark.parametrize(("verb", "call"), [(verb, call) for verb, rows in EXAMPLES.items() for call, _ in rows])
def test_each_example_can_be_parsed(verb: str, call: str) -> None:
    """The options of each example exist, and take what the example gives."""
    words = shlex.split(call.partition(" < ")[0].partition(" && echo")[0])
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    arguments = words[1:] if verb != "batch" else ["-", *words[2:-1]] if words[-1] != "-" else words[1:]
    with contextlib.suppress(click.exceptions.Exit):
        command.make_context(words[0], arguments, parent=click.Context(cli), resilient_parsing=False)
