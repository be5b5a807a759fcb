"""The types of what a request may contain: the keys of a job, and the values of filters.

Must not know how requests are made.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Stream = Literal["stdout", "stderr"]
Filter = str | float | Sequence[str]


class JobOptions(TypedDict, total=False):
    """The keys of a job besides its command, as in the body of POST /api/jobs."""

    name: str | None
    cwd: str | None
    env: Mapping[str, str]
    stdin: str | Mapping[str, bool] | None
    timeout: float | None
    priority: int
    queue: str
    profile: str | None
    labels: Mapping[str, str]
    merge_stderr: bool
    leave_children: bool | None
    encoding: str
    limits: Mapping[str, int]
    after: Sequence[int]
    start_at: str | None
    held: bool
    retries: Mapping[str, Any] | None
    notify: Mapping[str, str] | None
    tty: bool | Mapping[str, int] | None


class JobRequest(JobOptions, total=False):
    """A job with its command: one of `command`, a line for the shell, and `argv`, words that are run without one."""

    command: str
    argv: Sequence[str]
