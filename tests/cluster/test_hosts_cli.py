"""The command line about the hosts of a cluster."""

import json
import re
from pathlib import Path

import pytest

from tests.cluster.conftest import TOKEN, TwoNodes
from tests.support.command_line import Typist
from tests.support.tokens import secret_of
from tests.support.waiting import until, within


@pytest.fixture
def typist(nodes: TwoNodes, tmp_path: Path) -> Typist:
    """Return a user whose environment has the address of node `a`."""
    return Typist(tmp_path, SHELLRUNNER_URL=nodes.a.url, SHELLRUNNER_TOKEN=secret_of(TOKEN))


@pytest.mark.heavy
async def test_hosts_are_listed_and_drained(typist: Typist) -> None:
    """As a table and as the document; a drained one starts jobs again after `undrain`."""
    table = (await typist.run("hosts")).out.decode()
    assert [re.match(r"\w+ +open +0 +\d+ +all ", line) is not None for line in table.splitlines()] == [
        False,
        True,
        True,
    ]
    drained = await typist.run("drain", "--wait", "b")
    assert (drained.code, drained.err) == (0, "host b is drained; 0 jobs running\n")
    assert re.search("^b +drained ", (await typist.run("hosts")).out.decode(), re.MULTILINE)
    (document,) = [json.loads(line) for line in (await typist.run("hosts", "--json")).out.splitlines()]
    assert [each["draining"] for each in document["workers"]] == [False, True]
    names = (await typist.run("hosts", "-o", "template={host}")).out
    assert names == b"a\nb\n"
    unknown = "there is no host 'c': see `shellrunner hosts`\n"
    undrained = await typist.run("undrain", "c", "b")
    assert (undrained.code, undrained.err) == (1, unknown + "host b starts jobs again\n")
    assert (await typist.run("drain", "c")).err == unknown


@pytest.mark.heavy
async def test_hosts_are_watched(typist: Typist) -> None:
    """The table on a terminal follows what happens, until Ctrl-C."""
    async with typist.at_terminal("hosts", "--watch") as screen:
        await until(lambda: re.search(rb"b +.*open", screen.shown))
        await typist.run("drain", "b")
        await until(lambda: b"drained" in screen.shown)
        screen.types(b"\x03")
        assert await screen.code() == 0


@pytest.mark.heavy
async def test_what_runs_on_an_unreachable_host_says_so(nodes: TwoNodes, typist: Typist) -> None:
    """In lists, in the job's own view, and while somebody waits; with the host it is lost."""
    await typist.run("drain", "a")
    number = (await typist.run("submit", "sleep 600")).out.decode().strip()
    await until(lambda: nodes.execute("SELECT host FROM jobs WHERE state = 'running'") == [("b",)])
    await nodes.b.kill()
    nodes.execute("UPDATE hosts SET seen = seen - interval '1 minute', unreachable = seen WHERE name = 'b'")
    table = (await typist.run("ps", "--columns", "id,state,host")).out.decode()
    assert re.search(rf"^ *{number} +unreachable +b *$", table, re.MULTILINE)
    shown = (await typist.run("show", number)).out.decode()
    assert re.search(r"^state +unreachable$", shown, re.MULTILINE)
    assert re.search(r"^host +b, not reachable since ", shown, re.MULTILINE)
    signalled = await typist.run("signal", "HUP", number)
    silent = f"job {number} runs on host b, which is not reachable: nothing was sent to it; try again later\n"
    assert (signalled.code, signalled.err) == (1, silent)
    cancelled = await typist.run("cancel", number)
    later = f"job {number} is being cancelled once host b is reachable again\n"
    assert (cancelled.code, cancelled.err) == (0, later)
    refused = await typist.run("hosts", "rm", "b")
    assert (refused.code, refused.err) == (
        1,
        "cannot ask for confirmation without a terminal: use --yes to declare 1 running job lost\n",
    )
    async with typist.begin("wait", number) as waiting, typist.begin("drain", "--wait", "b") as draining:
        lines = [await within(draining.stderr.readline(), what="drain reports") for _ in range(2)]
        assert lines[1].startswith(b"host b is not reachable: waiting until it returns or its jobs are lost")
        removed = await typist.run("hosts", "rm", "-y", "b")
        assert removed.err == "host b was removed; 1 job lost\n"
        assert await waiting.wait() != 0
        await draining.wait()
    assert re.search(r"^state +lost$", (await typist.run("show", number)).out.decode(), re.MULTILINE)


@pytest.mark.heavy
async def test_a_job_that_no_host_takes_says_so(nodes: TwoNodes, typist: Typist) -> None:
    """Not that a keeper is missing: an operator would look in the wrong place."""
    await typist.run("drain", "a", "b")
    number = (await typist.run("submit", "true")).out.decode().strip()
    reason = "no host runs jobs of queue default now: each is drained, stopped, unreachable or for others"
    await until(lambda: nodes.a.get(f"/api/statuses/{number}"))

    async def says_so() -> bool:
        return reason in (await typist.run("ps")).out.decode()

    await until(says_so)
    await typist.run("undrain", "a")
    assert (await typist.run("wait", number)).code == 0
