"""The benchmarks: they run on real input, compare with a limit, and count CPU time that others would miss."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from benchmarks import history, rounds, table
from benchmarks.cluster import filling
from benchmarks.cluster.database import Database
from benchmarks.figure import LIMIT, Contenders, Figure, Goal, Measure, Outcome, Run, Sample, Unavailable
from benchmarks.figures import FIGURES
from benchmarks.peers import PEERS
from benchmarks.peers.installation import Installation
from benchmarks.process_tree import CpuTimer, private_bytes, running
from benchmarks.versions import CURRENT

from shellrunner.model import JobSpec
from shellrunner.store import Filters, Retention
from shellrunner.store.sqlite.composition import open_store
from tests.support import postgres
from tests.support.nodes import Cluster, cluster
from tests.support.waiting import until, within

ROOT = Path(__file__).parent.parent

# The grandchild is orphaned at once, in a session of its own, as a daemon is; its parent does none of the work.
# It has done it once it has used 100 ms.
DAEMON = """
import os, sys, time
if os.fork():
    os.wait()
    print("started", flush=True)
    sys.stdin.read()
    sys.exit(7)
os.setsid()
if os.fork():
    os._exit(0)
while time.process_time() < 0.1:
    pass
if sys.argv[1] == "stays":
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["stays", "ends"])
async def test_cpu_time_of_a_daemon_is_counted(end: str) -> None:
    """What a grandchild used that was forked twice is counted while it lives and when it has ended."""
    command = [sys.executable, "-I", "-S", "-c", DAEMON, end]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tree:
        tree.stdout.readline()
        processes = 2 if end == "stays" else 1
        await until(lambda: len(tree.pids()) == processes and tree.cpu_seconds() >= 0.08)  # ticks of 10 ms
        assert tree.cpu_seconds() < 1
        assert private_bytes(tree.program()) > 0


def test_only_what_is_used_meanwhile_is_measured() -> None:
    """A timer leaves out what a tree used before it, and has the load generator's own time apart."""
    program = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo; read line"
    with running(["sh", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tree:
        tree.stdout.readline()
        timer = CpuTimer(tree)
        before = tree.cpu_seconds()
        began = time.process_time()
        while time.process_time() - began < 0.05:
            pass
        used, own = timer.stop()
        assert used < before / 2
        assert own >= 0.05


def test_a_tree_is_ended_with_its_daemons() -> None:
    """When a context ends no process of its tree is left, though the program has ended before its daemon."""
    with running(["sh", "-c", "setsid sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE) as tree:
        daemon = int(tree.stdout.readline())
        tree.stop(seconds=0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(daemon, 0)


@pytest.mark.heavy
def test_the_benchmark_measures_real_jobs_and_requests_beside_their_limits() -> None:
    """`python -m benchmarks --quick` runs jobs and requests on a service, and has a limit for both."""
    command = [sys.executable, "-m", "benchmarks", "job", "get-status", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    document = json.loads(done.stdout)
    assert {"CPU", "cores", "kernel", "Python", "SQLite", "file system", "load"} <= document["machine"].keys()
    with_limit = {
        (line["figure"], line["measure"])
        for line in document["lines"]
        if line["value"]["median"] > 0 and line["limit"] and line["limit"]["median"] > 0 and line["of_limit"] > 0
    }
    titles = [figure.title for figure in FIGURES if figure.name in ("job", "get-status")]
    assert {(title, measure) for title in titles for measure in ("CPU", "wall")} <= with_limit


@pytest.mark.heavy
@pytest.mark.timeout(180)  # it starts PostgreSQL and four servers, beside other tests
def test_the_benchmark_measures_jobs_of_a_cluster_beside_a_single_host() -> None:
    """The CPU time of PostgreSQL is part of that of an empty job on a cluster; the limit, a single host, has none."""
    postgres.required()
    command = [sys.executable, "-m", "benchmarks", "cluster-jobs-2", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    document = json.loads(done.stdout)
    lines = {(line["contender"], line["measure"]): line for line in document["lines"]}
    assert "fsync on" in document["machine"]["PostgreSQL"]
    for contender in ("shellrunner", "delivery table"):
        whole, part = (lines[contender, name] for name in ("CPU", "CPU of PostgreSQL"))
        assert 0 < part["value"]["median"] < whole["value"]["median"]
        assert whole["limit"]["median"] > 0
        assert part["limit"]["median"] == 0


@contextmanager
def filled(config: Path) -> Iterator[tuple[Cluster, Database]]:
    """Make a history in PostgreSQL that is to be filled by SQL."""
    with cluster(config) as made:
        database = Database(made.server, made.database)
        try:
            yield made, database
        finally:
            database.connection.close()


@pytest.mark.heavy
async def test_queued_jobs_that_sql_has_written_are_claimed(tmp_path: Path) -> None:
    """A queue filled by SQL is one that a node claims from, the oldest job first, and knows the length of."""
    with filled(tmp_path) as (made, database):
        filling.queue(database, 30)
        async with made.node("node") as node:
            claims = [await within(node.claim(number, f"token-{number}"), what="a claim") for number in range(1, 4)]
            (queue,) = (await node.queues()).queues
            assert [claim.job_id for claim in claims] == [1, 2, 3]
            assert (queue.queued, queue.running) == (27, 3)


@pytest.mark.heavy
async def test_a_history_filled_by_sql_is_the_same_in_both_stores(tmp_path: Path) -> None:
    """Lists find the same jobs in PostgreSQL as in SQLite, texts and labels too, and the next job has the next id."""
    history.write(tmp_path / "sqlite", 300)
    every = [
        Filters(),
        Filters(text="обработать"),
        Filters(exit_codes=frozenset({1})),
        Filters(labels=(("env", "test"),)),
    ]
    with filled(tmp_path) as (made, database):
        filling.add_done(database, 300)
        async with open_store(tmp_path / "sqlite", Retention()) as sqlite, made.node("node") as node:
            for filters in every:
                pages = [await store.page(filters, (), limit=500) for store in (sqlite, node)]
                assert [each.job() for each in pages[0].jobs] == [each.job() for each in pages[1].jobs] != []
            assert (await node.add(JobSpec(command="true"))).id == 301
            assert (await node.size()).jobs == 300


def figure(contenders: dict[str, Sample | Unavailable], calls: list[str]) -> Figure:
    """Return a figure whose contenders note when their turn comes and have the same sample in each round."""

    @contextmanager
    def prepared(_: Run) -> Iterator[Contenders]:
        def turn(name: str, sample: Sample) -> Sample:
            calls.append(name)
            return sample

        yield {
            name: sample if isinstance(sample, Unavailable) else partial(turn, name, sample)
            for name, sample in contenders.items()
        }

    measures = (
        Measure("cpu", "CPU", "µs", 1e6, goal=Goal(0.4, 0.6, "share")),
        Measure("rate", "rate", "MB/s", 1e-6, is_rate=True, goal=Goal(100, 200, "value")),
        Measure("wait", "wait", "ms", 1e3, goal=Goal(1.8, 1.3, "times")),
    )
    return Figure("probe", "the probe", measures, prepared)


CONTENDERS: dict[str, Sample | Unavailable] = {
    LIMIT: {"cpu": 1, "rate": 400e6, "wait": 1},
    "shellrunner": {"cpu": 2, "rate": 200e6, "wait": 2},
    "before": {"cpu": 4, "rate": 50e6},
    "peer": Unavailable("not installed"),
}


def outcome_of(contenders: dict[str, Sample | Unavailable], count: int, calls: list[str]) -> Outcome:
    """Return the outcome of a figure with these contenders."""
    return rounds.measure(figure(contenders, calls), run_of(ROOT), count, lambda _: None)


def run_of(directory: Path) -> Run:
    """Return a run of the sources here."""
    return Run(directory, (CURRENT,))


def test_peers_that_are_not_installed_are_reported(tmp_path: Path) -> None:
    """A peer without its program or its package is not available, whatever it needs; none fails otherwise."""
    installation = Installation(tmp_path)
    for peer in PEERS:
        if peer.name in ("huey", "rq", "celery", "dramatiq", "Flask-Shell2HTTP"):
            with pytest.raises(Unavailable, match="not installed"), peer.running(run_of(tmp_path), installation, 1):
                pass
    with pytest.raises(Unavailable, match="not installed"):
        installation.program("no-such-program")


def test_rounds_are_interleaved() -> None:
    """The order of the contenders is reversed in every other round; one that is not available has no turn."""
    calls: list[str] = []
    outcome_of(CONTENDERS, 3, calls)
    one = [LIMIT, "shellrunner", "before"]
    assert calls == [*one, *reversed(one), *one]


def test_the_table_compares_with_the_limit_the_earlier_version_and_the_goals() -> None:
    """Shares of the limit, or of a version's own, are right for costs and rates; goals are reached or missed."""
    contenders = CONTENDERS | {"limit of before": {"rate": 100e6}}
    found = {
        (line.contender, line.measure.key): line
        for line in table.lines(outcome_of(contenders, 2, []), ["shellrunner", "before"])
    }
    assert {key: (line.of_limit, line.to_before, line.reached) for key, line in found.items()} == {
        ("shellrunner", "cpu"): (0.5, 0.5, "reach"),
        ("shellrunner", "rate"): (0.5, 4, "aim"),
        ("shellrunner", "wait"): (0.5, None, "no"),
        ("before", "cpu"): (0.25, None, "no"),
        ("before", "rate"): (0.5, None, "no"),
        ("peer", "cpu"): (None, None, ""),
    }
    head, *lines = table.text(found.values()).splitlines()
    assert all(column in head for column in ("contender", "limit", "of limit", "to before", "reach", "aim"))
    assert [line for line in lines if "not installed" in line and "peer" in line]
    goals, peers = table.markdown([*found.values()], ["shellrunner", "before"]).split("\n\n")
    assert goals.replace(",000,000", "e6").splitlines()[2:] == [
        "| the probe: CPU | 0.25 (4e6, limit 1e6 µs) | 0.50 (2e6, limit 1e6 µs) | 0.4 | 0.6 | reach |",
        "| the probe: rate | 50 MB/s | 200 MB/s | 100 MB/s | 200 MB/s | aim |",
        "| the probe: wait |  | 2.00 × (2,000, limit 1,000 ms) | 1.8 × | 1.3 × | no |",
    ]
    assert peers.splitlines()[-1] == "| peer | not installed |"


def test_each_figure_with_peers_has_a_table_of_its_own() -> None:
    """Two figures have measures of the same name."""
    found = list(table.lines(outcome_of(CONTENDERS, 2, []), ["shellrunner", "before"]))
    others = [line._replace(figure="another") for line in found]
    _, *tables = table.markdown([*found, *others], ["shellrunner", "before"]).split("\n\n")
    assert [each.split("|")[1].strip() for each in tables] == ["the probe", "another"]
    assert tables[0].splitlines()[1:] == tables[1].splitlines()[1:]
