"""Hooks for schemathesis: run no invented command, and add rules that a schema cannot express.

Named by SCHEMATHESIS_HOOKS; see test_schemathesis.py for the rest of what keeps invented commands from being run.
"""

from typing import Any
from uuid import uuid4

import requests
import schemathesis

HARMLESS = "/bin/true"


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Change each request just before it is sent, in every phase."""
    for job in jobs_of(case.body):
        disarm(job)
    if case.meta is not None and case.meta.generation.mode.is_positive:
        forget_what_was_invented(case)
        (case.query or {}).pop("follow", None)  # no end until the job has one, and some never start


@schemathesis.hook  # type: ignore[untyped-decorator]
def after_call(context: Any, case: Any, response: Any) -> None:
    """Undo a pause, and the limits of a queue, so that later requests find jobs that are done."""
    if case.method == "PUT" and response.status_code in (200, 201):
        requests.put(response.request.url, json={}, timeout=10)
    if case.path.endswith("/pause") and response.status_code == 200:
        requests.post(response.request.url.removesuffix("pause") + "resume", timeout=10)


def jobs_of(body: Any) -> list[Any]:
    """Return what may be a job: the body itself, and each of a batch."""
    if not isinstance(body, dict):
        return []
    jobs = body.get("jobs")
    return [body, *(job for job in (jobs if isinstance(jobs, list) else []) if isinstance(job, dict))]


def disarm(body: Any) -> None:
    """Replace the program of a valid argv by one that does nothing; what makes an argv invalid stays."""
    argv = body.get("argv")
    if isinstance(argv, list) and argv and isinstance(argv[0], str) and argv[0] and "\0" not in argv[0]:
        argv[0] = HARMLESS


def forget_what_was_invented(case: Any) -> None:
    """Remove values that are valid only if the service gave them: cursors, positions, versions, job ids."""
    for name in ("cursor", "last_event_id", "from"):
        (case.query or {}).pop(name, None)
    for name in ("tail", "follow") if "find" in (case.query or {}) else ("match_case", "backward"):
        (case.query or {}).pop(name, None)
    if case.path.endswith("/output") and "find" not in (case.query or {}):
        (case.query or {}).pop("limit", None)
    if "writer" not in (case.query or {}):
        (case.query or {}).pop("take", None)
    for name in ("Last-Event-ID", "If-Match"):
        (case.headers or {}).pop(name, None)
    if (case.headers or {}).get("Idempotency-Key"):  # a key that came with another body is refused
        case.headers["Idempotency-Key"] = f'"{uuid4()}"'
    sort = (case.query or {}).get("sort")
    if sort:  # each key once, in one direction
        words = sort if isinstance(sort, list) else sort.split(",")
        once = {word.removeprefix("-"): word for word in words}.values()
        case.query["sort"] = list(once) if isinstance(sort, list) else ",".join(once)
    if case.path.endswith("/again") and isinstance(case.body, dict):
        for key in ("command", "argv"):  # null removes it, which is refused where the earlier job has it
            if case.body.get(key, "") is None:
                del case.body[key]
    for job in jobs_of(case.body):
        job.pop("after", None)
        job.pop("queue", None)
