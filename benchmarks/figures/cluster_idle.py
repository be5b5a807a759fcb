"""What an idle cluster costs its database: twenty real nodes, two of them with an API."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.cluster.contenders import on_database
from benchmarks.cluster.database import Database
from benchmarks.cluster.nodes import API, WORKER, System, cluster
from benchmarks.figure import Contenders, Figure, Goal, Measure, Round, Run, Sample
from benchmarks.versions import Version

_SLOTS = 2


def _sample(run: Run, system: System) -> Sample:
    assert system.database
    seconds = run.count(30, 1)
    transactions = system.database.transactions(wait=not run.is_quick)
    before, began = system.parts(), time.perf_counter()
    time.sleep(seconds)
    after, elapsed = system.parts(), time.perf_counter() - began
    ended = system.database.transactions(wait=False) - transactions
    used = {name: (after[name] - before[name]) / elapsed for name in after}
    return {
        "postgres": used["postgres"],
        "transactions": ended / elapsed,
        "nodes": (used["loops"] + used["threads"] + used["keepers"]) / len(system.trees),
        "connections": system.database.count_connections(),
    }


@contextmanager
def _contenders(run: Run) -> Iterator[Contenders]:
    nodes = [API] * run.count(2, 1) + [WORKER] * run.count(18, 1)
    with ExitStack() as stack:

        def on_cluster(version: Version, made: Database) -> Round:
            started = cluster(run, version, made, nodes, SUPERVISOR__MAX_RUNNING=_SLOTS)
            system = stack.enter_context(started)
            time.sleep(run.count(10, 0))  # what is done once after a start is over
            return partial(_sample, run, system)

        yield {
            version.name: on_database(stack, run, version, partial(on_cluster, version)) for version in run.versions
        }


FIGURES = (
    Figure(
        "cluster-idle",
        "an idle cluster of 20 nodes",
        (
            Measure("postgres", "CPU of PostgreSQL", "% of a core", 100, 1, goal=Goal(2, 2, "value")),
            Measure("transactions", "transactions", "1/s", 1, 1),
            Measure("nodes", "CPU of a node", "% of a core", 100, 1),
            Measure("connections", "connections to PostgreSQL", "", 1),
        ),
        _contenders,
        max_rounds=3,
    ),
)
