"""Declaring running jobs of a host `lost`, once there is proof that nobody will report how they end.

That is the end of an attempt as any other: the next one follows if the job's `retries` say so. Units of the store.
Used where there is such a proof (an admin removes the host, another boot of it joins, it has been away for too long);
must not judge itself.
"""

from collections.abc import Callable
from typing import Final

from shellrunner.clock import Millis
from shellrunner.model import End, Ending, JobSpec, State, next_attempt_at
from shellrunner.store.db import Db
from shellrunner.store.output import Head
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.postgres.output_chunks import chunk_rows
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle

BATCH_SIZE: Final = 100  # jobs that are declared lost in one commit
# In the order of ids, as every transaction that locks several jobs.
_RUNNING: Final = """SELECT id, attempt, token, spec FROM jobs WHERE state = 'running' AND host = ?
    ORDER BY id LIMIT ? FOR UPDATE"""

_CLAIMED: Final = "SELECT attempt, spec FROM jobs WHERE id = ? AND token = ? AND state = 'running' FOR UPDATE"


def lose(
    db: Db,
    host: str,
    detail: str,
    now: Millis,
    limit: int = BATCH_SIZE,
    *,
    only: Callable[[int, int, str], bool] = lambda *_: True,
    claimed_by: str | None = None,
) -> Transitions:
    """End some of the attempts that run on this host as lost, with all consequences; none if none is left.

    `only` those of these ids, attempts and claim tokens. `claimed_by`: who may still run them, if not this host.
    """
    transitions: Transitions = []
    end = End(Ending.LOST, now, detail=detail)
    claims = [claim for claim in db.execute(_RUNNING, (host, limit)).fetchall() if only(*claim[:3])]
    if claims:
        unsettled.add(db, [job_id for job_id, *_ in claims], claimed_by)
    for job_id, attempt, token, spec in claims:
        volume = chunk_rows.sent(db, job_id, attempt).volume  # and no more, as the row is locked
        due = retry_at(spec, attempt, end)
        transitions += lifecycle.finish(db, job_id, token, end=end, volume=volume, head=Head(), next_attempt_at=due)
    return transitions


def lose_claim(db: Db, job_id: int, token: str, detail: str, now: Millis) -> Transitions:
    """End what runs under this claim as lost, though its host is sure that nothing of it runs any more."""
    row = db.execute(_CLAIMED, (job_id, token)).fetchone()
    if row is None:
        return []
    attempt, spec = row
    end, volume = End(Ending.LOST, now, detail=detail), chunk_rows.sent(db, job_id, attempt).volume
    due = retry_at(spec, attempt, end)
    return lifecycle.finish(db, job_id, token, end=end, volume=volume, head=Head(), next_attempt_at=due)


def retry_at(spec: str, attempt: int, end: End) -> Millis | None:
    """Return when another attempt follows this end, by the text of the job's specification; None: there is none."""
    try:
        return next_attempt_at(JobSpec.model_validate_json(spec), attempt, end, end.completed)
    except ValueError:  # damaged: it could not be started
        return None


def count(transitions: Transitions) -> int:
    """Return how many attempts were declared lost by these transitions."""
    return sum(each.before is State.RUNNING and each.after is not State.RUNNING for each in transitions)
