"""The Nth call of each kind fails in a keeper or in the fork server, or ends the process there.

Every call, every N until a run passes without a hit. What must hold is in `failing_calls`.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from shellrunner.model import Ending
from shellrunner.service.state_dir import prepare
from shellrunner.supervisor import KeeperPool, fork_server_connection
from shellrunner.supervisor.fork_server_connection import ForkServerLauncher, attach
from shellrunner.supervisor.keeper_connection import KeeperConnection
from shellrunner.supervisor.message_protocol import KeeperGone
from shellrunner.tasks import background_task
from tests.faults.failing_calls import CRASHES, Scenario, World, end_all, failing_fork_servers, world
from tests.faults.injector import CALLS, Plan
from tests.support.processes import marked
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(400)  # with `--faults whole`, on a loaded machine

PLAIN = Scenario("plain", "echo out; sleep 0.05; echo err >&2", output=b"out\n")
QUICK = Scenario("quick", "echo out", output=b"out\n")
SCENARIOS = [
    PLAIN,
    Scenario("input", "cat; sleep 0.02", {"stdin": {"stream": True}}, output=b"given\n", stdin=b"given\n"),
    Scenario("text", "cat", {"stdin": "text"}, output=b"text"),
    Scenario("terminal", "echo out; sleep 0.05", {"tty": {}}, output=b"out\r\n"),
    Scenario("limits", "echo out; sleep 0.02", {"limits": {"open_files": 64}}, output=b"out\n"),
    Scenario("spill", "head -c 150000 /dev/zero; sleep 0.02", output=bytes(150_000)),
    Scenario("timeout", "echo out; exec sleep 60", {"timeout": 0.1}, Ending.TIMED_OUT, None, output=b"out\n"),
    Scenario("leftovers", "echo out; sleep 60 & setsid sleep 60 & sleep 0.02", output=b"out\n"),
    Scenario(
        "let go",
        "echo out; { sleep 0.5; echo late; echo late; echo D NAME >> LEDGER; } & sleep 0.02",
        {"leave_children": True},
        output=b"out\nlate\nlate\n",
        leaves=True,
    ),
    Scenario("long", "(true &); sleep 1.1; (true &); echo out; sleep 0.2", output=b"out\n"),
]
ERRORS = ("EIO", "ENOSPC", "EMFILE", "ENOMEM", "EROFS", "EACCES")
_FIRSTS = (*range(1, 13), 16, 24, 40, 60)  # which call of a kind fails; there are many only where /proc is read
# For ever: who cannot wait for a child, nor look for processes, nor read or write pipes, nor receive, cannot do it.
_HOPELESS = [(0, call) for call in ("os.wait4", "os.open", "os.listdir", "os.read", "os.write", "socket.recv")]
_SHORT = 2  # calls that a short round picks, where it does not try all
_SHORT_SCENARIOS = 3  # that it picks

Faults = Iterable[tuple[int, str]]


@pytest.fixture
async def faulty(tmp_path: Path) -> AsyncIterator[World]:
    """Yield a world whose fork server and keepers fail as planned; in the end nothing may be left."""
    with failing_fork_servers(tmp_path):
        async with world(tmp_path / "state") as there:
            yield there
            for number in range(
                20
            ):  # more than there are idle keepers: one that is dead is noticed when it gets a job
                await there.run(QUICK, None, f"last{number}")
            await there.check_nothing_is_left()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try each scenario by itself, or some of them, which the seed decides, in one test."""
    if "scenarios" in metafunc.fixturenames:
        names = [scenario.name for scenario in SCENARIOS]
        whole = metafunc.config.getoption("--faults") == "whole"
        metafunc.parametrize("scenarios", names if whole else ["some"], indirect=True)


@pytest.fixture
def scenarios(request: pytest.FixtureRequest, seed: int) -> list[Scenario]:
    """Return the scenarios that one test tries."""
    if request.param == "some":
        return random.Random(seed).sample(SCENARIOS, _SHORT_SCENARIOS)
    return [scenario for scenario in SCENARIOS if scenario.name == request.param]


def _chosen(chance: random.Random, *, whole: bool) -> list[str]:
    return list(CALLS) if whole else chance.sample(CALLS, _SHORT)


async def _sweep(there: World, scenario: Scenario, calls: list[str], faults: Callable[[], Faults]) -> None:
    """Run the scenario with each of the calls failing, every one of them in turn, in a keeper and in its child."""
    names = (f"{scenario.name.replace(' ', '')}{number}" for number in itertools.count())
    hits = 0

    async def try_each(role: str, call: str, times: int, fault: str) -> None:
        nonlocal hits
        for first in _FIRSTS:
            name = next(names)
            run = await there.run(scenario, Plan(role, call, first, times, fault, name), name)
            if not run.hits:
                break
            hits += 1

    roles = ("k", "c") if "limits" in scenario.members else ("k",)
    await _all(
        try_each(role, call, times, fault)
        for role in roles
        for call in calls
        for times, fault in faults()
        if role == "k" or fault not in CRASHES  # whether such a child has exec'ed its program cannot be known
        if (times, call) not in _HOPELESS
    )
    assert hits or len(calls) < len(CALLS)


async def _all(work: Iterable[Awaitable[None]]) -> None:
    results = await asyncio.gather(*work, return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    assert not failed, "\n".join(map(str, failed))


@pytest.mark.heavy
async def test_c9_a_keeper_survives_a_failing_call(
    faulty: World, scenarios: list[Scenario], seed: int, *, whole: bool
) -> None:
    """Whichever call fails once: a healthy command comes to its end, and its ending is true."""
    chance = random.Random(seed)
    for scenario in scenarios:
        calls = _chosen(chance, whole=whole or scenario is scenarios[0])
        await _sweep(
            faulty, scenario, calls, lambda: [(1, fault) for fault in chance.sample(ERRORS, 2 if whole else 1)]
        )


@pytest.mark.heavy
async def test_c9_a_keeper_survives_calls_that_go_on_failing(
    faulty: World, scenarios: list[Scenario], seed: int, *, whole: bool
) -> None:
    """Whichever call fails for a while or for ever: the same holds."""
    chance = random.Random(seed)
    for scenario in scenarios:
        calls = _chosen(chance, whole=whole)
        await _sweep(faulty, scenario, calls, lambda: [(times, chance.choice(ERRORS)) for times in (3, 0)])


@pytest.mark.heavy
async def test_c9_a_keeper_may_die_at_any_call(
    faulty: World, scenarios: list[Scenario], seed: int, *, whole: bool
) -> None:
    """Whichever call it dies before or after: started at most once, true or `lost`, and nothing is left."""
    for scenario in scenarios:
        calls = _chosen(random.Random(seed), whole=whole)
        await _sweep(faulty, scenario, calls, lambda: [(1, fault) for fault in CRASHES])


@pytest.mark.heavy
async def test_c9_writes_may_be_short(faulty: World) -> None:
    """Whichever write stores only the half of what it was given: the rest follows."""
    await _sweep(faulty, SCENARIOS[5], ["os.pwrite"], lambda: [(1, "short"), (3, "short")])


@pytest.mark.heavy
async def test_c9_a_keeper_is_found_again_although_calls_fail(tmp_path: Path, seed: int) -> None:
    """Whatever fails when the next server connects: every job ends by itself, and truly."""
    chance, scenario = random.Random(seed), Scenario("found", "sleep 1; echo out", output=b"out\n")
    calls = ("socket.accept", "socket.recv", "socket.send", "socket.socket", "socket.close", "poll.poll")
    plans = [
        Plan("k", call, first, times, chance.choice(ERRORS), f"found{number}")
        for number, (call, first, times) in enumerate(itertools.product(calls, (1, 2, 3), (1, 3)))
    ]
    with failing_fork_servers(tmp_path):
        async with world(tmp_path / "state", len(plans), leave=True) as there:
            runs = [await there.submit(scenario, plan, plan.run) for plan in plans]
            await until(lambda: len(there.lines("S")) == len(plans))
        async with world(tmp_path / "state", len(plans)) as there:
            await _all(_finish(there, run) for run in runs)
            await there.check_nothing_is_left()


async def _finish(there: World, run: Any) -> None:
    await there.finish(run)


# The fork server --------------------------------------------------------------------------------------------------


class Forks:
    """A keeper pool whose fork server fails as planned, and a command that must come to no harm."""

    def __init__(self, path: Path, pool: KeeperPool, header: dict[str, Any]) -> None:
        self.path, self.pool, self._header = path, pool, header
        self._job = 0

    async def spawn(self, plan: Plan | None = None) -> KeeperConnection | None:
        """Have a keeper forked under a plan; None if that failed, which it may."""
        self._header |= {"FAULTS": str(plan)} if plan else {}
        try:
            return await self.pool.spawn()
        except (KeeperGone, OSError) as error:
            print(f"{plan}: {error!r}")
            return None
        finally:
            self._header.pop("FAULTS", None)

    async def healthy(self) -> KeeperConnection:
        """Have a keeper forked although something has failed before."""
        return await until(self.spawn, 5, "a keeper is forked again")

    def start(self, keeper: KeeperConnection, command: str) -> str:
        """Have the keeper run a command; return its mark."""
        self._job += 1
        mark = f"{self.path}/{self._job}"
        keeper.send({
            "do": "start", "job": self._job, "token": "t", "argv": ["/bin/sh", "-c", command], "cwd": "/",
            "env": {"PATH": "/usr/bin:/bin", "MARK": mark}, "stdin": None, "timeout": None, "grace": 1,
            "merge_stderr": False, "leave_children": False, "output_bytes": 1 << 20,
        })  # fmt: skip
        return f"MARK={mark}\0"


@pytest.fixture
async def forks(tmp_path: Path) -> AsyncIterator[Forks]:
    """Yield a keeper pool with a fork server that fails as planned; in the end no slot may be left."""
    header = {"history": "h" * 32, "program": "test"}
    with failing_fork_servers(tmp_path):
        launcher = ForkServerLauncher.from_process(prepare(tmp_path / "state"))
        first = await attach(*launcher.launch())
        with contextlib.closing(KeeperPool(launcher, header, first)) as pool:
            async with background_task("abandoned keepers", pool.remove_abandoned()):
                try:
                    yield Forks(tmp_path / "state", pool, header)
                finally:
                    end_all(str(tmp_path / "state"))
        first.process.wait(5)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["once", "for a while", "crash"])
async def test_c9_the_fork_server_survives_a_failing_call(forks: Forks, seed: int, kind: str, *, whole: bool) -> None:
    """Whichever call fails, or ends it: other commands go on, a dead keeper's tree is ended, the next fork works."""
    chance = random.Random(seed)
    bystander = await forks.healthy()
    mark = forks.start(bystander, "exec sleep 600")
    faults = CRASHES if kind == "crash" else ERRORS
    for number, call in enumerate(_chosen(chance, whole=whole)):
        for first in _FIRSTS:
            fault = chance.choice(faults)
            plan = Plan("f", call, first, 4 if kind == "for a while" else 1, fault, f"fork{number}.{first}")
            await _fork_and_kill(forks, plan, end_a_tree=kind != "crash")
            assert marked(mark), f"{plan} ended a command that has nothing to do with it"
            if plan.run not in _read(forks.path / "hits"):
                break
    await until(lambda: len(os.listdir(forks.path / "slots")) == 2, 9, "no slot is left but the bystander's")
    bystander.close()


async def _fork_and_kill(forks: Forks, plan: Plan, *, end_a_tree: bool) -> None:
    victim = await forks.healthy()
    tree = forks.start(victim, "setsid sleep 600 & exec sleep 600")
    await until(lambda: len(marked(tree)) == 2)
    keeper = await forks.spawn(plan)
    identity = (await victim.hello)["identity"]
    os.kill(identity["pid"], signal.SIGKILL)
    if end_a_tree:
        await until(lambda: not marked(tree), 5, f"{plan}: what a dead keeper left is ended")
    end_all(tree)
    last = await forks.healthy()
    for connection in (victim, keeper, last):
        if connection:
            connection.close()
    for connection in (victim, keeper, last):
        if connection:
            await asyncio.wait_for(forks.pool.remove_slot_when_gone(connection.number), 5)


def _read(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.heavy
async def test_c9_a_keeper_that_is_forked_too_late_leaves_no_slot(
    forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork server that was stopped forks when it goes on; nobody waits for that keeper, and it leaves nothing."""
    monkeypatch.setattr(fork_server_connection, "_FORK_TIMEOUT", 0.1)
    first = await forks.healthy()
    server = forks.pool._fork_server.process
    os.kill(server.pid, signal.SIGSTOP)
    assert [await forks.spawn() for _ in range(3)] == [None] * 3
    os.kill(server.pid, signal.SIGCONT)
    await until(lambda: len(os.listdir(forks.path / "slots")) > 2, what="they are forked")
    await until(lambda: len(os.listdir(forks.path / "slots")) == 2, what="they are gone, with slots and sockets")
    first.close()
