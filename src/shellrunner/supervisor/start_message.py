"""Build the message that starts a job: its specification, completed with the configured defaults.

Pure; used by the job runner. Must not know keepers as processes, or the store.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shellrunner.config import JobDefaults
from shellrunner.keeper.protocol import Message
from shellrunner.model import Claim, JobSpec, Limits, Streamed
from shellrunner.model.names import PROCESS_LIMITS
from shellrunner.supervisor.orphans import job_mark
from shellrunner.supervisor.users import UserAccount

_TERM = "xterm-256color"
# A pager waits for keys that nobody can type. Most programs use PAGER; the others can be configured to prefer another
# one, which their own variable overrides.
_NO_PAGER: Final = dict.fromkeys(("PAGER", "GIT_PAGER", "GH_PAGER", "AWS_PAGER", "MANPAGER", "SYSTEMD_PAGER"), "cat")


def effective_timeout(spec: JobSpec, jobs: JobDefaults) -> float | None:
    """Return the seconds after which the keeper ends the command; None: no limit."""
    return spec.timeout or jobs.timeout


def build_start_message(
    claim: Claim, jobs: JobDefaults, account: UserAccount, home: str = "", sandbox: Mapping[str, Any] | None = None
) -> Message:
    """Return the `start` message (see `keeper.protocol`). Nothing of the service's own environment is in it.

    `home` is the state directory's, for the command's mark; `sandbox` is its profile's.
    """
    spec = claim.spec
    leave = spec.leave_children
    message = {
        "do": "start",
        "job": claim.job_id,
        "token": claim.token,
        "attempt": claim.attempt,
        "argv": _argv(spec, jobs),
        "cwd": spec.cwd or account.cwd,
        "env": {
            **_terminal_environment(spec, account),
            **account.environment,
            "PYTHONUNBUFFERED": "1",
            "SHELLRUNNER_JOB_ID": str(claim.job_id),
            "SHELLRUNNER_JOB": job_mark(claim.job_id, claim.token, home),
            **spec.env,
        },
        "stdin": spec.stdin if isinstance(spec.stdin, str) else None,
        "stream": isinstance(spec.stdin, Streamed),
        "tty": spec.tty and [spec.tty.rows, spec.tty.columns],
        "echo": bool(spec.tty and spec.tty.echo),
        "timeout": effective_timeout(spec, jobs),
        "grace": jobs.kill_grace,
        "kill_only": claim.kill_only,
        "merge_stderr": spec.merge_stderr,
        "leave_children": False if sandbox else jobs.leave_children if leave is None else leave,
        "output_bytes": spec.limits.output_bytes or jobs.output_bytes,
        "limits": _limits(spec.limits, jobs),
        "user": account.user,
        "sandbox": sandbox,
    }
    # Most have a default, which both sides would encode and decode with every job.
    return {name: value for name, value in message.items() if value is not None and value is not False}


def _terminal_environment(spec: JobSpec, account: UserAccount) -> dict[str, str]:
    if not spec.tty:
        return {}
    # Without TERM, programs assume a terminal that can do nothing.
    chooses_pager = isinstance(spec.stdin, Streamed) or "PAGER" in spec.env or "PAGER" in account.environment
    return {"TERM": _TERM, **({} if chooses_pager else _NO_PAGER)}


def _argv(spec: JobSpec, jobs: JobDefaults) -> Sequence[str]:
    if spec.argv is not None:
        return spec.argv
    # A command that was read from a file may begin with a byte order mark, which no shell skips.
    return [*jobs.shell, (spec.command or "").removeprefix("\ufeff")]


def _limits(requested: Limits, jobs: JobDefaults) -> dict[str, int | None] | None:
    limits = {name: getattr(requested, name) or getattr(jobs, name) for name in PROCESS_LIMITS}
    return limits if any(limits.values()) else None
