"""The model as the API's resources: a job, its status, its result, and where each is found.

Pure functions; the keys and their meaning are API.md's. Must not know HTTP.
"""

from typing import Any

from shellrunner.model import Done, End, Job, Millis, Running, Usage, Volume
from shellrunner.wire.body import instant
from shellrunner.wire.texts import Excerpt

Document = dict[str, Any]


def job_link(job_id: int) -> str:
    """Where the job is found."""
    return f"/api/jobs/{job_id}"


def status_link(job_id: int) -> str:
    """Where its status is found."""
    return f"/api/statuses/{job_id}"


def result_link(job: Job) -> str | None:
    """Where its result is found; None while there is none, or when it was deleted."""
    phase = job.phase
    return f"/api/results/{job.id}" if isinstance(phase, Done) and phase.volume is not None else None


def job(job: Job) -> Document:
    """The job as it was asked for, without secrets: of `env` the names, of `stdin` nothing."""
    spec = job.spec
    return {
        "job_id": job.id,
        "command": spec.shown,
        "created": instant(job.created),
        "state": job.state.value,
        "done": job.done,
        "status": status_link(job.id),
        "result": result_link(job),
        "argv": spec.argv,
        "cwd": spec.cwd,
        "env": list(spec.env),
        "timeout": spec.timeout,
        "priority": spec.priority,
        "merge_stderr": spec.merge_stderr,
        "leave_children": spec.leave_children,
        "encoding": spec.encoding,
        "limits": {"output_bytes": spec.limits.output_bytes},
    }


def status(job: Job) -> Document:
    """How far it is; what is not known yet, or never was, is null."""
    phase = job.phase
    end = phase.end if isinstance(phase, Done) else None
    started = phase.started if isinstance(phase, Running) else end.started if end else None
    return {
        "status_id": job.id,
        "job_id": job.id,
        "done": job.done,
        "state": job.state.value,
        "cancelling": isinstance(phase, Running) and phase.cancelling,
        "attempt": 1,
        "created": instant(job.created),
        "started": _instant(started),
        "completed": end and instant(end.completed),
        "ending": end and end.ending.value,
        "exit_code": end and end.exit_code,
        "signal": end and end.signal,
        "result": result_link(job),
    }


def result(job: Job, end: End, volume: Volume, stdout: Excerpt, stderr: Excerpt) -> Document:
    """How it ended and what it wrote, as far as that fits here."""
    return {
        "result_id": job.id,
        "job_id": job.id,
        "command": job.spec.shown,
        "created": instant(job.created),
        "started": _instant(end.started),
        "completed": instant(end.completed),
        "duration": end.duration,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "ending": end.ending.value,
        "detail": end.detail,
        "stdout": stdout.text,
        "stderr": stderr.text,
        "stdout_bytes": volume.stdout_bytes,
        "stderr_bytes": volume.stderr_bytes,
        "stdout_dropped": volume.stdout_dropped,
        "stderr_dropped": volume.stderr_dropped,
        "truncated": stdout.truncated or stderr.truncated,
        "attempt": 1,
        "attempts": [],
        "usage": end.usage and _usage(end.usage),
    }


def ended(job: Job, end: End) -> Document:
    """What the last event of a stream says."""
    return {
        "result": result_link(job),
        "ending": end.ending.value,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "duration": end.duration,
        "completed": instant(end.completed),
    }


def _usage(usage: Usage) -> Document:
    return {"cpu_user": usage.cpu_user, "cpu_system": usage.cpu_system, "max_rss_bytes": usage.max_rss_bytes}


def _instant(moment: Millis | None) -> str | None:
    return None if moment is None else instant(moment)
