"""The README is true: its tables have what there is, no more and no less."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import shellrunner
from shellrunner.callbacks.webhook_headers import webhook_headers
from shellrunner.cli import VERBS, cli
from shellrunner.config import QueueSettings
from shellrunner.model import Ending, JobSpec
from shellrunner.model.filters import FILTERS
from shellrunner.web import ROUTES
from shellrunner.web.http.problems import STATUSES

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_check_for_receivers_is_right() -> None:
    """The README's check says yes to what is sent, and no to another body, another time or another secret."""
    (block,) = re.findall(r"^<!-- verify -->\n```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    shown: dict[str, Any] = {}
    exec(block, shown)
    secret, other = (f"whsec_{base64.b64encode(letter * 32).decode()}" for letter in (b"a", b"b"))
    body = "готово".encode()
    headers = webhook_headers("history-1", 1_795_508_097, body, secret)
    assert shown["verify"](secret, headers, body)
    assert not shown["verify"](secret, headers, body + b"!")
    assert not shown["verify"](secret, headers | {"webhook-timestamp": "1"}, body)
    assert not shown["verify"](other, headers, body)


@pytest.mark.parametrize("key", QueueSettings.model_fields)
def test_every_setting_of_a_queue_is_told(key: Any) -> None:
    """The table of settings has what a queue may have."""
    assert f"| `queues.NAME.{key}` |" in README


def first_cells(heading: Any) -> Any:
    """What is in backticks in the first column of the table below a heading."""
    section = README.partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    return re.findall(r"^\| (?:[A-Z]+ )?`([^`]+)` \|", table[0], re.MULTILINE)


def test_every_problem_is_told_with_its_status() -> None:
    """The table of errors has each type with its status, and none that there is not."""
    told = re.findall(r"^\| `/problems/([a-z-]+)` \| ([0-9]{3}) \|", README, re.MULTILINE)
    assert {kind: int(status) for kind, status in told} == STATUSES


def test_every_room_is_in_the_table() -> None:
    """The table of rooms is the tree: each module or package of the program, and no other."""
    entries = Path(shellrunner.__file__).parent.iterdir()
    rooms = {path.stem for path in entries if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(first_cells("### The rooms")) == {room for room in rooms if not room.startswith("__")}


def test_every_ending_is_told() -> None:
    """The table of endings has each, and no other."""
    table = README.partition("## States and endings")[2].partition("## Errors")[0]
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)[1:] == list(Ending)


def test_every_key_of_a_job_is_told() -> None:
    """The table of the body has each key of a job, and no other."""
    table = README.partition("The body of POST")[2].partition("## States and endings")[0]
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE) == list(JobSpec.model_fields)


def options_of(command: Any) -> Iterator[Any]:
    """The name of each option of a command, and those of a group's subcommands."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield parameter.opts[0]
    for subcommand in getattr(command, "commands", {}).values():
        yield from options_of(subcommand)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_and_option_is_told(name: Any) -> None:
    """The table of the command line has each verb, with each of its options and of its subcommands' options."""
    verb = cli.get_command(click.Context(cli), name)
    (line,) = re.findall(rf"^\| `shellrunner {name}` \|.*$", README, re.MULTILINE)
    assert [option for option in options_of(verb) if f"`{option}" not in line] == []
    assert [subcommand for subcommand in getattr(verb, "commands", {}) if f"`{subcommand}" not in line] == []


def test_the_options_of_subcommands_are_found() -> None:
    """Those of `token create` and `token list` are among the options of `token`."""
    assert {"--scope", "--expires", "--run-as", "--config"} <= set(
        options_of(cli.get_command(click.Context(cli), "token"))
    )


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.verb} {route.path}")
def test_every_parameter_is_told(route: Any) -> None:
    """A route's line in the table names the parameters that it takes, and no other; "filters" are all filters."""
    path = re.sub(r"\{(\w+):[^/]*\}", r"{\1}", route.path)
    (line,) = re.findall(rf"^\| {route.verb} `{re.escape(path)}` \|([^|]*)\|", README, re.MULTILINE)
    line = re.sub(r"\bfilters\b", " ".join(f"`{info.parameter}`" for info in FILTERS.values()), line)
    assert re.findall(r"`(\w+)`", line) == route.parameters.split()
