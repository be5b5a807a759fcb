"""A million jobs compared with a thousand: a deep page, a submitted job, the start, and every kind of list."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from benchmarks.figure import Contenders, Figure, Goal, Measure, Round, Run, Sample, Unavailable, limit_of
from benchmarks.figures.jobs import ALONE
from benchmarks.figures.starts import start_once
from benchmarks.http_load import get, send
from benchmarks.process_tree import CpuTimer
from benchmarks.service import Service, serving
from benchmarks.versions import Version

BASELINE_JOBS = 1000
_KEEP_ALL = {"STORE__RETENTION_DAYS": 0, "STORE__RETENTION_JOBS": 0, "STORE__RETENTION_BYTES": 0}
_HOUR_BEGINS, _HOUR_ENDS = "2020-09-17T16:26:40Z", "2020-09-17T17:26:40Z"  # jobs 360,000 to 363,600

# Path and query of each list, by name.
LISTS = {
    "newest first": "/api/jobs?",
    "results": "/api/results?",
    "oldest first": "/api/jobs?sort=created",
    "by duration": "/api/results?sort=-duration",
    "-created,duration": "/api/results?sort=-created,duration",
    "priority,queue,created": "/api/jobs?sort=priority,queue,created",
    "exit_code,-completed": "/api/results?sort=exit_code,-completed",
    "-ending,duration": "/api/results?sort=-ending,duration",
    "failed": "/api/jobs?exit_code=1,2",
    "failed, by duration": "/api/results?exit_code=1,2&sort=duration",
    "lost": "/api/jobs?ending=lost",
    "not done": "/api/jobs?state=queued,running",
    "one queue": "/api/jobs?queue=mail",
    "one queue, by start": "/api/results?queue=mail&sort=started",
    "common label": "/api/jobs?label=env:prod",
    "rare label": "/api/jobs?label=env:canary",
    "rare label, by duration": "/api/results?label=env:canary&sort=duration",
    "created in one hour": f"/api/jobs?created_after={_HOUR_BEGINS}&created_before={_HOUR_ENDS}&sort=-created",
    "longer than 8 s": "/api/jobs?min_duration=8",
    "text in all": "/api/jobs?q=.JSON",
    "text in an eighth": f"/api/jobs?q={quote('обработать')}",
    "text in some": "/api/jobs?q=/srv/data/1234.json",
    "text in some, by duration": "/api/results?q=/srv/data/1234.json&sort=duration",
    "text in none, entries common": "/api/jobs?q=json%20/srv%20--id",
    "text of two letters in none": f"/api/jobs?q={quote('ыъ')}",
    "failed and in the night": "/api/results?exit_code=77&queue=night&sort=duration",
    "nothing fits": "/api/results?exit_code=0&ending=lost&sort=started",
}
PAGE = 100


def path_of_list(name: str) -> str:
    """Return the path of a page of a list."""
    path = LISTS[name]
    return f"{path}{'' if path.endswith('?') else '&'}limit={PAGE}"


def _histories(run: Run) -> Iterator[tuple[str, Version, int, Path]]:
    """Yield contender, version, number of jobs and state directory; they are made for the first figure of a run."""
    many = run.count(1_000_000, 3000)
    for version, jobs in product(run.versions, (BASELINE_JOBS, many)):
        name = version.name if jobs == many else limit_of(version.name)
        path = run.directory / f"history-{version.name}-{jobs}"
        if not path.exists():
            version.run_module("benchmarks.history", [str(path), str(jobs)])
        yield name, version, jobs, path


def deep_page(jobs: int, service: Service) -> str:
    """Return the path of the page after the middle of the list, without reading those before it."""
    following = service.get(f"/api/jobs?limit={PAGE}")["next"]
    (cursor,) = parse_qs(urlsplit(following).query)["cursor"]
    content = json.loads(base64.urlsafe_b64decode(cursor + "==="))
    content[-1] = jobs // 2  # the id after which the page begins
    encoded = base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).rstrip(b"=").decode()
    return f"/api/jobs?limit={PAGE}&cursor={encoded}"


def _page_cpu(service: Service, path: str, count: int) -> float:
    timer = CpuTimer(service.tree)
    send(service.port, get(path), count, 1)
    return timer.stop()[0] / count


def _job_cpu(service: Service, count: int) -> float:
    timer = CpuTimer(service.tree)
    ALONE.send(service, count)
    service.wait_until_idle()
    return timer.stop()[0] / count


Measured = Callable[[Run, Service, int], Sample]


def _pages_and_jobs(run: Run, service: Service, jobs: int) -> Sample:
    return {
        "page": _page_cpu(service, deep_page(jobs, service), run.count(200, 5)),
        "job": _job_cpu(service, run.count(500, 20)),
    }


def _all_lists(run: Run, service: Service, _: int) -> Sample:
    count = run.count(10, 1)
    return {name: _page_cpu(service, path_of_list(name), count) for name in LISTS}


@contextmanager
def _contenders(run: Run, measured: Measured) -> Iterator[Contenders]:
    with ExitStack() as stack:
        rounds: dict[str, Round | Unavailable] = {}
        for name, version, jobs, path in _histories(run):
            service = stack.enter_context(serving(version, run.directory, path, **_KEEP_ALL))
            rounds[name] = partial(measured, run, service, jobs)
        yield rounds


@contextmanager
def _ready(run: Run) -> Iterator[Contenders]:
    yield {name: partial(start_once, version, path, **_KEEP_ALL) for name, version, _, path in _histories(run)}


_GOAL = Goal(1.2, 1.05, "times")

FIGURES = (
    Figure(
        "million",
        "a million jobs, a thousand as limit",
        (
            Measure("page", "CPU, a page of 100 in the middle", "ms", 1e3, 2, goal=_GOAL),
            Measure("job", "CPU of an empty job", "µs", 1e6, goal=_GOAL),
        ),
        partial(_contenders, measured=_pages_and_jobs),
        max_rounds=5,
    ),
    Figure(
        "million-ready",
        "a million jobs, a thousand as limit",
        (
            Measure("wall", "serve to ready", "ms", 1e3, goal=_GOAL),
            Measure("cpu", "CPU of serve to ready", "ms", 1e3),
        ),
        _ready,
        max_rounds=5,
    ),
    Figure(
        "million-lists",
        "a page of 100 of a million jobs, a thousand as limit",
        tuple(Measure(name, f"CPU, {name}", "ms", 1e3, 2) for name in LISTS),
        partial(_contenders, measured=_all_lists),
        max_rounds=3,
    ),
)
