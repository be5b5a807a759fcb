"""A page of 100 jobs, statuses and results, of jobs that wrote one line each."""

from collections.abc import Callable

from benchmarks.figure import Figure, Goal, Measure, Run, client, wall
from benchmarks.figures.requests import against_bare_handler
from benchmarks.service import Service

_PAGE = 100


def _page(kind: str) -> Callable[[Service, Run], str]:
    def prepare(service: Service, _: Run) -> str:
        service.submit_many("echo a line of output", _PAGE + 20)
        service.wait_until_idle()
        path = f"/api/{kind}?limit={_PAGE}"
        assert len(service.get(path)[kind]) == _PAGE
        return path

    return prepare


def _figure(kind: str, reach: float) -> Figure:
    page_cpu = Measure("cpu", "CPU", "ms", 1e3, digits=2, goal=Goal(reach, 0.5, "value"))
    return Figure(
        f"list-{kind}",
        f"list of {_PAGE} {kind}",
        (page_cpu, wall(), client()),
        against_bare_handler(_page(kind), full=300),
    )


FIGURES = (_figure("jobs", 1.0), _figure("statuses", 0.8), _figure("results", 2.0))
