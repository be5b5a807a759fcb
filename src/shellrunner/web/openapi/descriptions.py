"""The prose of the OpenAPI document: its introduction, its tags and what each kind of problem means.

Used by the other modules of this package. Must not know which route has which problem.
"""

from collections.abc import Iterator
from typing import Final

from shellrunner.errors import ShellrunnerError

INTRODUCTION: Final = (
    "Runs shell commands for other programs: submit a job over HTTP, poll or follow it live, fetch its result.\n\n"
    "Witnessed or unknown: once a job is accepted with 202, it is in the history exactly once. Each attempt is "
    "started at most once. Its ending is what the kernel reported to a process that watched the command, or `lost` "
    "with the evidence, never an invented number.\n\n"
    "A job, its status and its result share one id. HEAD is served wherever GET is. OPTIONS is answered with 204 and "
    "`Allow`, any other method with 405 (`/problems/method-not-allowed`); these are not listed for each path. JSON "
    "is UTF-8, times are RFC 3339 in UTC, durations are seconds. Unknown parameters and keys are rejected. Every "
    "response has `X-Content-Type-Options: nosniff`, `Referrer-Policy: no-referrer` and "
    "`Cross-Origin-Resource-Policy: same-origin`, also `Cross-Origin-Opener-Policy: same-origin` and a "
    "`Permissions-Policy`. Every error is a problem document (RFC 9457)."
)

TAGS: Final = {
    "jobs": "What to run: submit, list, cancel and delete jobs, send them signals and input.",
    "statuses": "How far jobs are, and what they write while they run.",
    "results": "How jobs ended, and what they wrote.",
    "queues": "How many jobs are in each queue; limits, pausing and resuming.",
    "workers": "The hosts that share the history: which are reachable, what they run, draining and resuming.",
    "service": "The service itself: index, this document, health, metrics, sessions, the page.",
}

# Problems that HTTP itself has. The others are described by the docstrings of their errors.
_HTTP_PROBLEMS: Final = {
    "bad-request": "The request is not valid HTTP, or its path is not in its one spelling.",
    "unconfirmed": "Many jobs would be deleted, cancelled or lost, but `confirm=true` is missing; `deleted`, "
    "`cancelled` or `lost` says how many.",
    "cross-site": "The request comes from a page of another site.",
    "not-found": "There is nothing at this path.",
    "method-not-allowed": "The path does not support this method; `Allow` lists those that it supports.",
    "not-acceptable": "`Accept` excludes the media type of this route.",
    "body-too-slow": "The body did not arrive within 10 seconds.",
    "precondition-failed": "`If-Match` does not name the current version, or `If-None-Match` does.",
    "too-large": "The body is larger than `limit`: 1 MiB, and 8 MiB for a batch of jobs.",
    "unsupported-media-type": "The body has a media type that this route does not take, or is compressed.",
    "range-not-satisfiable": "The range begins after the last byte.",
    "expectation-failed": "The value of `Expect` is not supported.",
    "wrong-host": "`Host` is not a name under which the service is served.",
    "headers-too-large": "The request line or a header is too long, or there are too many headers.",
    "internal": "The service failed unexpectedly; its log has the details under `id`.",
    "shutting-down": "The service is shutting down.",
    "not-ready": "Jobs are not accepted or run at the moment; the service's log says why.",
}


def problem(code: str) -> str:
    """Return the description of a kind of problem.

    Raises:
        KeyError: there is no such problem.
    """
    return _HTTP_PROBLEMS.get(code) or _ERRORS[code]


def _subclasses(cls: type[ShellrunnerError]) -> Iterator[type[ShellrunnerError]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


_ERRORS: Final = {
    cls.code: " ".join((cls.__doc__ or "").split()) for cls in _subclasses(ShellrunnerError) if "code" in vars(cls)
}
