"""The README is true: its tour runs as it is shown, and its tables have what there is, no more and no less."""

import asyncio
import base64
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import click
import pytest

import shellrunner
from shellrunner.callbacks import envelope
from shellrunner.cli import VERBS, cli
from shellrunner.config import QueueSettings
from shellrunner.model import Ending, JobSpec
from shellrunner.web import ROUTES
from shellrunner.web.http.problems import STATUSES
from tests.support.service import Service
from tests.support.waiting import SOON

README = (Path(__file__).parent.parent / "README.md").read_text()
SHOWN = "http://localhost:8000"

# What differs from run to run, as it is shown, and what it then may be.
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z"
_VARIES = re.compile(rf'(?P<left_out>…)|(?P<time>{_TIME})|(?<="duration":)(?P<seconds>[0-9.]+)')
_MAY_BE = {"left_out": ".*?", "time": _TIME, "seconds": "[0-9.e-]+"}


@pytest.fixture
async def touring(tmp_path):
    """A service with the settings that the tour shows."""
    (block,) = re.findall(r"^<!-- tour -->\n```toml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    settings = {
        f"{section}__{key}".upper(): json.dumps(value)
        for section, keys in tomllib.loads(block).items()
        for key, value in keys.items()
    }
    service = Service(tmp_path / "state", **settings)
    await service.start()
    try:
        yield service
    finally:
        await service.clear_away()


def tour():
    """Each command of the README's `console` blocks, with what is shown below it."""
    for block in re.findall(r"^```console\n(.*?)^```$", README, re.DOTALL | re.MULTILINE):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            yield command, shown.strip()


def matches(shown, printed):
    """Whether what was printed is what is shown, apart from what varies; `…` stands for anything."""
    pattern, at = "", 0
    for part in _VARIES.finditer(shown):
        pattern += re.escape(shown[at : part.start()]) + _MAY_BE[part.lastgroup]
        at = part.end()
    return re.fullmatch(pattern + re.escape(shown[at:]), printed, re.DOTALL) is not None


async def typed(command, home, url):
    """Run a line as a person would, and return what appears, without the progress that curl shows beside it."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", command, cwd=home, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": path, "HOME": str(home), "SHELLRUNNER_URL": url},  # no .curlrc and no proxy of ours
    )  # fmt: skip
    printed, progress = await asyncio.wait_for(process.communicate(), SOON)
    assert process.returncode == 0, progress.decode()
    return printed.decode().replace("\r\n", "\n").strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is typed with curl, which is not here")
async def test_the_tour_runs_as_it_is_shown(touring, tmp_path):
    """Every command of the tour prints what the README shows, on a fresh history, from the first to the last."""
    service = touring
    steps = list(tour())
    assert len(steps) > 50
    for command, shown in steps:
        printed = await typed(command.replace(SHOWN, service.url), tmp_path, service.url)
        assert matches(shown, printed), f"$ {command}\n{printed}\n\nis not what is shown:\n\n{shown}"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("HTTP/1.1 202 Accepted\n…", "HTTP/1.1 202 Accepted\nDate: now", True),
        ("HTTP/1.1 202 Accepted\n…", "HTTP/1.1 200 OK\nDate: now", False),
        ('{"duration":1.5}', '{"duration":2.25}', True),
        ('{"duration":1.5}', '{"duration":null}', False),
        ('{"exit_code":1,…}', '{"exit_code":12,"signal":null}', False),
        ('"2026-11-24T05:36:30.183Z"', '"2027-01-01T00:00:00.000Z"', True),
        ('"2026-11-24T05:36:30.183Z"', "null", False),
        ('{"a":1}', '{"a":1,"b":2}', False),
    ],
)
def test_the_comparison_would_notice(shown, printed, same):
    """A status, key or value that differs is a difference; a time, a duration and what was left out is none."""
    assert matches(shown, printed) is same


def test_the_check_for_receivers_is_right():
    """The README's check says yes to what is sent, and no to another body, another time or another secret."""
    (block,) = re.findall(r"^<!-- verify -->\n```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    shown = {}
    exec(block, shown)
    secret, other = (f"whsec_{base64.b64encode(letter * 32).decode()}" for letter in (b"a", b"b"))
    body = "готово".encode()
    headers = envelope.headers("history-1", 1_795_508_097, body, secret)
    assert shown["verify"](secret, headers, body)
    assert not shown["verify"](secret, headers, body + b"!")
    assert not shown["verify"](secret, headers | {"webhook-timestamp": "1"}, body)
    assert not shown["verify"](other, headers, body)


@pytest.mark.parametrize("key", QueueSettings.model_fields)
def test_every_setting_of_a_queue_is_told(key):
    """The table of settings has what a queue may have."""
    assert f"| `queues.NAME.{key}` |" in README


def first_cells(heading):
    """What is in backticks in the first column of the table below a heading."""
    section = README.partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return re.findall(r"^\| (?:[A-Z]+ )?`([^`]+)` \|", table[0], re.MULTILINE)


def test_every_problem_is_told_with_its_status():
    """The table of errors has each type with its status, and none that there is not."""
    told = re.findall(r"^\| `/problems/([a-z-]+)` \| ([0-9]{3}) \|", README, re.MULTILINE)
    assert {kind: int(status) for kind, status in told} == STATUSES


def test_every_room_is_in_the_table():
    """The table of rooms is the tree: each module or package of the program, and no other."""
    entries = Path(shellrunner.__file__).parent.iterdir()
    rooms = {path.stem for path in entries if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(first_cells("### The rooms")) == {room for room in rooms if not room.startswith("__")}


def test_every_ending_is_told():
    """The table of endings has each, and no other."""
    table = README.partition("## States and endings")[2].partition("## Errors")[0]
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)[1:] == list(Ending)


def test_every_key_of_a_job_is_told():
    """The table of the body has each key of a job, and no other."""
    table = README.partition("The body of POST")[2].partition("## States and endings")[0]
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE) == list(JobSpec.model_fields)


def options_of(command):
    """The name of each option of a command, and those of a group's subcommands."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield parameter.opts[0]
    for subcommand in getattr(command, "commands", {}).values():
        yield from options_of(subcommand)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_and_option_is_told(name):
    """The table of the command line has each verb, with each of its options and of its subcommands' options."""
    verb = cli.get_command(None, name)
    (line,) = re.findall(rf"^\| `shellrunner {name}` \|.*$", README, re.MULTILINE)
    assert [option for option in options_of(verb) if f"`{option}" not in line] == []
    assert [subcommand for subcommand in getattr(verb, "commands", {}) if f"`{subcommand}" not in line] == []


def test_the_options_of_subcommands_are_found():
    """Those of `token create` and `token list` are among the options of `token`."""
    assert {"--scope", "--expires", "--run-as", "--config"} <= set(options_of(cli.get_command(None, "token")))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.verb} {route.path}")
def test_every_parameter_is_told(route):
    """A route's line in the table names the parameters that it takes, and no other."""
    path = re.sub(r"\{(\w+):[^/]*\}", r"{\1}", route.path)
    (line,) = re.findall(rf"^\| {route.verb} `{re.escape(path)}` \|([^|]*)\|", README, re.MULTILINE)
    assert re.findall(r"`(\w+)`", line) == route.parameters.split()
