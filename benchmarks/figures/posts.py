"""POST while every slot is busy, so that a job is only stored; as limit a bare handler that returns the document."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.figure import LIMIT, Contenders, Figure, Goal, Round, Run, Unavailable, client, cpu, wall
from benchmarks.figures.requests import Repeated
from benchmarks.http_load import post
from benchmarks.limits.bare_serving import bare_serving
from benchmarks.service import serving

_SPEC = {"command": "true"}
_SLOTS = 2


@contextmanager
def _contenders(run: Run) -> Iterator[Contenders]:
    count = run.count(2000, 20)
    with ExitStack() as stack:
        bare = stack.enter_context(bare_serving(run.directory))
        rounds: dict[str, Round | Unavailable] = {LIMIT: Repeated(post("/", _SPEC), count, expected=202).round(*bare)}
        for version in run.versions:
            service = stack.enter_context(serving(version, run.directory, SUPERVISOR__MAX_RUNNING=_SLOTS))
            for _ in range(_SLOTS):
                service.wait_until_running(service.submit(command="exec sleep 3600"))
            repeated = Repeated(post("/api/jobs", _SPEC), count, expected=202)
            rounds[version.name] = repeated.round(service.tree, service.port)
        yield rounds


FIGURES = (
    Figure(
        "post-busy",
        "POST while all slots are busy",
        (cpu(goal=Goal(0.30, 0.45, "share")), wall(), client()),
        _contenders,
    ),
)
