"""Claims from a long queue, beside claims from a short one: PostgreSQL's CPU time for each claim."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.cluster.contenders import on_database
from benchmarks.cluster.database import Database
from benchmarks.figure import Contenders, Figure, Goal, Measure, Round, Run, Sample, Unavailable, limit_of
from benchmarks.process_tree import ProcessTree, running
from benchmarks.versions import ROOT, Version

_BASELINE_JOBS = 1000


def _sample(run: Run, node: ProcessTree, database: Database, queued: int) -> Sample:
    from benchmarks.cluster import filling  # noqa: PLC0415  it needs psycopg

    claims = run.count(500, 20)
    if missing := queued - int(database.read_value("SELECT count(*) FROM jobs WHERE state = 'queued'")):
        filling.queue(database, missing)
    transactions = database.transactions(wait=not run.is_quick)
    before = database.cpu_seconds()
    node.process.stdin.write(b"%d\n" % claims)  # type: ignore[union-attr]
    node.process.stdin.flush()  # type: ignore[union-attr]
    seconds = float(node.stdout.readline())
    used = database.cpu_seconds() - before
    ended = database.transactions(wait=not run.is_quick) - transactions
    return {"postgres": used / claims, "wall": seconds / claims, "transactions": ended / claims}


@contextmanager
def _contenders(run: Run) -> Iterator[Contenders]:
    many = run.count(100_000, 1500)
    with ExitStack() as stack:

        def on_node(version: Version, delivery: str, queued: int, database: Database) -> Round:
            environment = version.environment(STORE__URL=database.url)
            environment["PYTHONPATH"] += f":{ROOT}"
            state_dir = run.directory / database.name
            command = [version.python, "-P", "-m", "benchmarks.cluster.claimer", delivery, str(state_dir)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            node = stack.enter_context(running(command, environment, **pipes))
            if node.stdout.readline() != b"ready\n":
                raise ChildProcessError("the node did not start")
            time.sleep(run.count(1, 0))
            return partial(_sample, run, node, database, queued)

        contenders = {version.name: (version, "pgqueuer") for version in run.versions}
        contenders["delivery table"] = (run.versions[0], "table")
        rounds: dict[str, Round | Unavailable] = {}
        for name, (version, delivery) in contenders.items():
            for queued in (many, _BASELINE_JOBS):
                contender = name if queued == many else limit_of(name)
                made = partial(on_node, version, delivery, queued)
                rounds[contender] = on_database(stack, run, version, made)
        yield rounds


FIGURES = (
    Figure(
        "cluster-queued",
        "a claim, 100,000 queued, a thousand as limit",
        (
            Measure("postgres", "CPU of PostgreSQL", "µs", 1e6, goal=Goal(1.2, 1.05, "times")),
            Measure("wall", "wall", "µs", 1e6),
            Measure("transactions", "transactions", "a claim", 1, 2),
        ),
        _contenders,
        max_rounds=3,
    ),
)
