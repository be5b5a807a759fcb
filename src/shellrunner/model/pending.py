"""Why a job that is accepted does not run yet: the first thing that keeps it waiting.

Used by the store, which knows the queues, and by the wire, which shows it. Must not know SQL or HTTP.
"""

from enum import StrEnum
from typing import NamedTuple

from shellrunner.clock import format_rfc3339
from shellrunner.model.job import Waiting


class PendingReason(StrEnum):
    """The kinds of reasons, in the order in which they are looked for."""

    HELD = "held"
    AFTER = "after"
    START_AT = "start_at"
    RETRY = "retry"
    SERVICE_PAUSED = "service_paused"
    QUEUE_PAUSED = "queue_paused"
    QUEUE_LIMIT = "queue_limit"
    TOKEN_LIMIT = "token_limit"  # noqa: S105  no password
    STORAGE = "storage"
    PLACES = "places"


class Pending(NamedTuple):
    """The first thing that keeps a job waiting; `detail` is for people."""

    reason: PendingReason
    detail: str


def why_waiting(phase: Waiting, attempt: int) -> Pending:
    """Return why a job is not even queued; `attempt` is the one that comes next."""
    if phase.held:
        return Pending(PendingReason.HELD, "it is held until it is released")
    if phase.awaited is not None:
        more = phase.awaits - 1
        others = f" and {more} other{'s' if more > 1 else ''}" if more > 0 else ""
        return Pending(PendingReason.AFTER, f"it waits for job {phase.awaited}{others}")
    moment = "now" if phase.due is None else format_rfc3339(phase.due)
    if attempt > 1:
        return Pending(PendingReason.RETRY, f"attempt {attempt} starts at {moment} at the earliest")
    return Pending(PendingReason.START_AT, f"it starts at {moment} at the earliest")
