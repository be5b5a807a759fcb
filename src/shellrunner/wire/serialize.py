"""The model as documents of the API: a job, its status, its result, and the path of each.

Pure functions; `documents` has the keys and their meaning. Must not know HTTP.
"""

from collections.abc import Mapping
from typing import Any, Final

from shellrunner.clock import Millis, format_rfc3339
from shellrunner.model import (
    AttemptHost,
    Callback,
    CommandState,
    Done,
    End,
    Found,
    Job,
    JobSpec,
    JobStatus,
    Leftovers,
    Limits,
    LiveUsage,
    Pending,
    Retries,
    Running,
    Stream,
    Streamed,
    TerminalSize,
    Unreachable,
    Usage,
    Volume,
    Waiting,
    why_waiting,
)
from shellrunner.wire import documents, job_documents, stream_events
from shellrunner.wire.text import Excerpt

Document = Mapping[str, Any]  # any of them

_UNKNOWN: Final = CommandState()


def status_path(job_id: int) -> str:
    """Return the path of a job's status."""
    return f"/api/statuses/{job_id}"


def result_link(job: Job | JobStatus) -> str | None:
    """Return the path of the job's result, or None if it has none yet or its result was deleted."""
    phase = job.phase
    return result_path(job.id) if isinstance(phase, Done) and phase.volume is not None else None


def result_path(job_id: int) -> str:
    """Return the path of a job's result."""
    return f"/api/results/{job_id}"


def attempt_path(job_id: int, number: int) -> str:
    """Return the path of the result of one attempt."""
    return f"{result_path(job_id)}/attempts/{number}"


def job(job: Job) -> documents.Job:
    """Return the job as it was submitted, without secrets: only the names of `env`, and no text of `stdin`."""
    spec = job.spec
    return {
        "job_id": job.id,
        "command": spec.command_line,
        "created": format_rfc3339(job.created),
        "name": spec.name,
        "state": job.state.value,
        "done": job.done,
        "status": status_path(job.id),
        "result": result_link(job),
        "submitter": job.submitter,
        "run_as": job.run_as,
        "again_of": job.again_of,
        "host": job.host,
        "argv": spec.argv,
        "cwd": spec.cwd,
        "env": list(spec.env),
        "stdin": _stdin(spec),
        "timeout": spec.timeout,
        "priority": spec.priority,
        "queue": spec.queue,
        "profile": spec.profile,
        "labels": spec.labels,
        "merge_stderr": spec.merge_stderr,
        "leave_children": spec.leave_children,
        "encoding": spec.encoding,
        "limits": _limits(spec.limits),
        "after": spec.after,
        "start_at": spec.start_at,
        "held": isinstance(job.phase, Waiting) and job.phase.held,
        "retries": _retries(spec.retries) if spec.retries else None,
        "notify": _callback(job.callback) if job.callback else None,
        "tty": {"rows": spec.tty.rows, "columns": spec.tty.columns, "echo": spec.tty.echo} if spec.tty else None,
    }


def status(
    job: Job | JobStatus, command: CommandState = _UNKNOWN, pending: Pending | None = None
) -> documents.Status:
    """Return how far the job is; what is not known (yet) is null.

    `command` counts only while it runs; `pending` says why a queued job does not start.
    """
    phase = job.phase
    if not isinstance(phase, Running):
        command = _UNKNOWN
    end = phase.end if isinstance(phase, Done) else None
    started = phase.claimed if isinstance(phase, Running) else end.started if end else None
    if isinstance(phase, Waiting):
        pending = why_waiting(phase, job.attempt)
    return {
        "status_id": job.id,
        "job_id": job.id,
        "done": job.done,
        "state": job.state.value,
        "name": job.name,
        "pending": {"reason": pending.reason.value, "detail": pending.detail} if pending else None,
        "cancelling": isinstance(phase, Running) and phase.cancelling,
        "paused": command.paused,
        "host": job.host,
        "unreachable": _unreachable(phase.unreachable) if isinstance(phase, Running) and phase.unreachable else None,
        "attempt": job.attempt,
        "created": format_rfc3339(job.created),
        "started": _instant(started),
        "pid": command.pid,
        "tty": _size(command.terminal) if command.terminal else None,
        "completed": format_rfc3339(end.completed) if end else None,
        "ending": end.ending.value if end else None,
        "exit_code": end.exit_code if end else None,
        "signal": end.signal if end else None,
        "result": result_link(job),
        "leftovers_count": _leftovers_count(end) if end else None,
    }


def result(
    job: Job,
    attempt: int,
    end: End,
    volume: Volume,
    host: AttemptHost,
    *,
    stdout: Excerpt,
    stderr: Excerpt,
) -> documents.Result:
    """Return how an attempt ended, with excerpts of its output, and links to all attempts that have ended."""
    return {
        "result_id": job.id,
        "job_id": job.id,
        "command": job.spec.command_line,
        "created": format_rfc3339(job.created),
        "name": job.spec.name,
        "queue": job.spec.queue,
        "priority": job.spec.priority,
        "labels": job.spec.labels,
        "started": _instant(end.started),
        "completed": format_rfc3339(end.completed),
        "duration": end.duration,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "ending": end.ending.value,
        "detail": end.detail,
        "host": host.name,
        "found": _found(host.found) if host.found else None,
        "stdout": stdout.text,
        "stderr": stderr.text,
        "stdout_bytes": volume.stdout_bytes,
        "stderr_bytes": volume.stderr_bytes,
        "stdout_dropped": volume.stdout_dropped,
        "stderr_dropped": volume.stderr_dropped,
        "truncated": stdout.truncated or stderr.truncated or volume.dropped > 0,
        "attempt": attempt,
        "attempts": [attempt_path(job.id, number) for number in range(1, job.attempt + job.done)],
        "usage": _usage(end.usage) if end.usage else None,
        "leftovers": _leftovers(end.leftovers) if end.leftovers else None,
        "leftovers_count": _leftovers_count(end),
    }


def live_usage(job_id: int, usage: LiveUsage) -> documents.LiveUsage:
    """Return what the processes of a running job use."""
    return {
        "status_id": job_id,
        "job_id": job_id,
        "processes": usage.processes,
        "cpu_seconds": round(usage.cpu_seconds, 2),
        "cpu_share": round(usage.cpu_share, 3),
        "interval": round(usage.interval, 3),
        "rss_bytes": usage.rss_bytes,
        "stopped": usage.stopped,
    }


def live_usages(usages: Mapping[int, LiveUsage], processors: int) -> documents.LiveUsages:
    """Return what the processes of each running job use."""
    rows = [live_usage(job_id, usage) for job_id, usage in sorted(usages.items())]
    return {"processors": processors, "usages": rows}


def dropped_event(stream: Stream, dropped: int, missing: int) -> stream_events.DroppedEvent:
    """Return the data of an event about bytes that are not there, of which some are missing."""
    event: stream_events.DroppedEvent = {"stream": stream.value, "bytes": dropped}
    return {**event, "missing": missing} if missing else event


def attempt_event(job: Job, attempt: int, end: End) -> stream_events.AttemptEvent:
    """Return the data of the event for the end of an attempt that another one follows."""
    return {
        "attempt": attempt,
        "max_attempts": job.spec.retries.max + 1 if job.spec.retries else attempt + 1,
        "result": attempt_path(job.id, attempt),
        "ending": end.ending.value,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "duration": end.duration,
        "completed": format_rfc3339(end.completed),
    }


def done_event(job: Job, end: End) -> stream_events.DoneEvent:
    """Return the data of the last event of a job's stream."""
    return {
        "result": result_link(job),
        "ending": end.ending.value,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "duration": end.duration,
        "completed": format_rfc3339(end.completed),
    }


def _stdin(spec: JobSpec) -> job_documents.Streamed | job_documents.HiddenText | None:
    if isinstance(spec.stdin, Streamed):
        return {"stream": True}
    return {"text": True} if spec.has_text() else None


def _limits(limits: Limits) -> job_documents.Limits:
    return {
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds,
        "processes": limits.processes,
        "open_files": limits.open_files,
        "output_bytes": limits.output_bytes,
    }


def _retries(retries: Retries) -> job_documents.Retries:
    return {"max": retries.max, "delay": retries.delay, "on": retries.on}


def _callback(callback: Callback) -> job_documents.Callback:
    return {"state": callback.state.value, "tries": callback.tries, "error": callback.error}


def _unreachable(unreachable: Unreachable) -> job_documents.Unreachable:
    return {"host": unreachable.host, "since": format_rfc3339(unreachable.since)}


def _found(found: Found) -> job_documents.Found:
    return {
        "ending": found.ending.value,
        "exit_code": found.exit_code,
        "signal": found.signal,
        "completed": format_rfc3339(found.completed),
    }


def _size(size: TerminalSize) -> job_documents.TerminalSize:
    return {"rows": size.rows, "columns": size.columns}


def _usage(usage: Usage) -> documents.Usage:
    return {"cpu_user": usage.cpu_user, "cpu_system": usage.cpu_system, "max_rss_bytes": usage.max_rss_bytes}


def _leftovers_count(end: End) -> int | None:
    return end.leftovers.count if end.leftovers else None


def _leftovers(leftovers: Leftovers) -> list[documents.Leftover]:
    return [{"pid": process.pid, "command": process.command} for process in leftovers.processes]


def _instant(moment: Millis | None) -> str | None:
    return None if moment is None else format_rfc3339(moment)
