"""What a keeper is told to start: the job as it was asked for, with what config says where it says nothing.

Pure; used by the supervisor. Must not know keepers as processes, or the store.
"""

from shellrunner.config import Jobs
from shellrunner.keeper.messages import Message
from shellrunner.model import Claim


def start(claim: Claim, jobs: Jobs) -> Message:
    """The `start` message (see `keeper.messages`). Nothing of the service's own environment is in it."""
    spec = claim.spec
    leave = spec.leave_children
    return {
        "do": "start",
        "job": claim.job_id,
        "token": claim.token,
        "argv": spec.argv if spec.argv is not None else [*jobs.shell, spec.command],
        "cwd": spec.cwd or str(jobs.cwd),
        "env": {
            **jobs.environment,
            "PYTHONUNBUFFERED": "1",
            "SHELLRUNNER_JOB_ID": str(claim.job_id),
            "SHELLRUNNER_JOB": f"{claim.job_id}:{claim.token}",
            **spec.env,
        },
        "stdin": spec.stdin,
        "timeout": spec.timeout or jobs.timeout,
        "grace": jobs.kill_grace,
        "merge_stderr": spec.merge_stderr,
        "leave_children": jobs.leave_children if leave is None else leave,
        "output_bytes": spec.limits.output_bytes or jobs.output_bytes,
    }
