"""A million jobs that are done, in PostgreSQL, compared with a thousand: a page, every list, an empty job."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.cluster.contenders import on_database
from benchmarks.cluster.database import Database
from benchmarks.cluster.nodes import HOST, System, cluster
from benchmarks.figure import Contenders, Figure, Goal, Measure, Round, Run, Sample, Unavailable, limit_of
from benchmarks.figures.million import BASELINE_JOBS, LISTS, deep_page, path_of_list
from benchmarks.http_load import get, post, send
from benchmarks.versions import Version

_KEEP_ALL = {"STORE__RETENTION_DAYS": 0, "STORE__RETENTION_BYTES": 0}
Measured = Callable[[Run, System, int], Sample]


def _page_cpu(system: System, path: str, count: int) -> dict[str, float]:
    """Return the CPU time of a page: of PostgreSQL, and of all."""
    port = system.apis[0].port
    send(port, get(path), 1, 1)
    system.settle()
    before = system.parts()
    send(port, get(path), count, 1)
    system.settle(0.5)
    after = system.parts()
    used = {name: (after[name] - before[name]) / count for name in after}
    return {"postgres": used["postgres"], "all": sum(used.values())}


def _pages_and_jobs(run: Run, system: System, jobs: int) -> Sample:
    page = _page_cpu(system, deep_page(jobs, system.apis[0]), run.count(100, 3))
    count = run.count(500, 10)
    before = system.cpu_seconds()
    system.send(post("/api/jobs", {"command": "true"}), count, 16)
    system.wait_until_idle()
    system.settle()
    return {"page": page["all"], "postgres": page["postgres"], "job": (system.cpu_seconds() - before) / count}


def _all_lists(run: Run, system: System, _: int) -> Sample:
    count, lists = run.count(5, 1), [*LISTS][: run.count(len(LISTS), 2)]
    return {name: _page_cpu(system, path_of_list(name), count)["all"] for name in lists}


@contextmanager
def _contenders(run: Run) -> Iterator[Contenders]:
    many = run.count(1_000_000, 1500)
    with ExitStack() as stack:

        def on_history(version: Version, jobs: int, database: Database) -> Round:
            from benchmarks.cluster import filling  # noqa: PLC0415  it needs psycopg

            filling.add_done(database, jobs)
            system = stack.enter_context(cluster(run, version, database, [HOST], **_KEEP_ALL))
            return partial(_sample, run, system, jobs)

        rounds: dict[str, Round | Unavailable] = {}
        for version in run.versions:
            for jobs in (many, BASELINE_JOBS):
                name = version.name if jobs == many else limit_of(version.name)
                rounds[name] = on_database(stack, run, version, partial(on_history, version, jobs))
        yield rounds


def _sample(run: Run, system: System, jobs: int) -> Sample:
    return {**_pages_and_jobs(run, system, jobs), **_all_lists(run, system, jobs)}


_GOAL = Goal(1.2, 1.05, "times")

FIGURES = (
    Figure(
        "cluster-million",
        "a million jobs in PostgreSQL, a thousand as limit",
        (
            Measure("page", "CPU, a page of 100 in the middle", "ms", 1e3, 2, goal=_GOAL),
            Measure("postgres", "CPU of PostgreSQL for it", "ms", 1e3, 2),
            Measure("job", "CPU of an empty job", "µs", 1e6, goal=_GOAL),
            *(Measure(name, f"CPU, {name}", "ms", 1e3, 2) for name in LISTS),
        ),
        _contenders,
        max_rounds=3,
    ),
)
