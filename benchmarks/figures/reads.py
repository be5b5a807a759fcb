"""GET of one status, job and result."""

from collections.abc import Callable

from benchmarks.figure import Figure, Goal, Run, client, cpu, wall
from benchmarks.figures.requests import against_bare_handler
from benchmarks.service import Service


def _running_job(service: Service, _: Run) -> str:
    job_id = service.submit(command="exec sleep 3600")
    service.wait_until_running(job_id)
    return f"/api/statuses/{job_id}"


def _ended_job(service: Service, _: Run) -> int:
    job_id = service.submit(command="echo a line of output")
    service.wait_until_idle()
    return job_id


def _job(service: Service, run: Run) -> str:
    return f"/api/jobs/{_ended_job(service, run)}"


def _result(service: Service, run: Run) -> str:
    return f"/api/results/{_ended_job(service, run)}"


def _figure(name: str, title: str, prepare: Callable[[Service, Run], str], reach: float) -> Figure:
    measures = (cpu(goal=Goal(reach, 0.6, "share")), wall(), client())
    return Figure(name, title, measures, against_bare_handler(prepare, full=3000))


FIGURES = (
    _figure("get-status", "GET status of a running job", _running_job, 0.45),
    _figure("get-job", "GET job", _job, 0.45),
    _figure("get-result", "GET result", _result, 0.40),
)
