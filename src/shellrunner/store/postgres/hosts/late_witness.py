"""What a witness reports of a job that was declared lost meanwhile: it is added, once, and changes no ending.

Units of the store, for ends of jobs that do not run any more by the history. An attempt that others have followed
gets no output any more: clients know by then where its output ends, and that of the next one begins. Must not know
who the witness is.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from shellrunner.model import Claim, End, Ending, State, Volume
from shellrunner.store import rows
from shellrunner.store.columns import ClaimRow, columns, dump_found
from shellrunner.store.db import Db
from shellrunner.store.output import Head
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.values import SlotClaim

_ENDED: Final = """SELECT queue, submitter, ending, completed, exit_code, token, found, stdout_bytes IS NULL
    FROM jobs WHERE id = ? AND state = 'done' FOR UPDATE"""
_EARLIER: Final = """SELECT number, token, ending, completed, exit_code, found FROM attempts WHERE job = ?
    AND (token = ? OR ending = ? AND completed = ? AND exit_code IS NOT DISTINCT FROM ?) FOR UPDATE"""
_ADD_FOUND_EARLIER: Final = """UPDATE attempts SET found = ?, started = coalesce(started, ?)
    WHERE job = ? AND number = ?"""
# Lost attempts without a report, of these jobs.
_LOST: Final = f"""SELECT {columns(ClaimRow)}, lost_number, lost_token FROM jobs JOIN (
        SELECT id AS lost_job, attempt AS lost_number, token AS lost_token FROM jobs
            WHERE id = ANY(?) AND state = 'done' AND ending = 'lost' AND found IS NULL
        UNION ALL SELECT job, number, token FROM attempts WHERE job = ANY(?) AND ending = 'lost' AND found IS NULL
    ) AS lost ON id = lost_job WHERE lost_token IS NOT NULL ORDER BY id, lost_number"""  # noqa: S608
_ADD_FOUND: Final = "UPDATE jobs SET found = ?, started = coalesce(started, ?) WHERE id = ?"
_ADD_VOLUME: Final = """UPDATE jobs SET stdout_bytes = ?, stderr_bytes = ?, stdout_dropped = ?, stderr_dropped = ?
    WHERE id = ?"""
_ADD_OUTPUT: Final = "INSERT INTO outputs (job, entries, data) VALUES (?, ?, ?) ON CONFLICT (job) DO NOTHING"


class RecordedEnd(NamedTuple):
    """Whether the history has this end, and what was done to the job for that."""

    is_known: bool
    transitions: Transitions


def add(db: Db, job_id: int, token: str, *, end: End, volume: Volume, head: Head) -> RecordedEnd:
    """Add this end to the job, or to its attempt, if it is lost, was claimed under this token, and has none yet.

    An end that was committed before, though its commit was not answered, is known already. So is that of a job that
    was deleted meanwhile.
    """
    row = db.execute(_ENDED, (job_id,)).fetchone()
    was_awaited = unsettled.settle(db, token)
    if row is None:  # another attempt may follow, or run
        return RecordedEnd(_add_to_earlier(db, job_id, token, end) or was_awaited, [])
    queue, submitter, ending, completed, exit_code, its_token, found, is_deleted = row
    if (ending, completed, exit_code) == (end.ending.value, end.completed, end.exit_code):
        return RecordedEnd(is_known=True, transitions=[])
    if ending != Ending.LOST or its_token != token:
        return RecordedEnd(_add_to_earlier(db, job_id, token, end), [])
    if end.ending is Ending.LOST:  # this host has come to the same verdict
        return RecordedEnd(is_known=True, transitions=[])
    if found is not None:
        return RecordedEnd(is_known=found == dump_found(end), transitions=[])
    db.execute(_ADD_FOUND, (dump_found(end), end.started, job_id))
    size = 0
    if not is_deleted:
        counts = (volume.stdout_bytes, volume.stderr_bytes, volume.stdout_dropped, volume.stderr_dropped)
        db.execute(_ADD_VOLUME, (*counts, job_id))
        if head.data or head.index:
            db.execute(_ADD_OUTPUT, (job_id, head.index, head.data))
        size = -volume.stored  # what is counted off a job that was done before
    changed = Transition(job_id, queue, submitter, State.DONE, State.DONE, size, tokens=())
    return RecordedEnd(is_known=True, transitions=[changed])


def lost_claims(db: Db, claims: Sequence[SlotClaim]) -> list[Claim]:
    """Return those of these claims that are lost, and of which no witness has reported yet."""
    keepers = {(claim.job_id, claim.token): claim.keeper for claim in claims}
    job_ids = sorted({claim.job_id for claim in claims})
    found: list[Claim] = []
    for *values, number, token in db.execute(_LOST, (job_ids, job_ids)).fetchall():
        row = ClaimRow._make(values)
        keeper = keepers.get((row.id, token))
        if keeper is not None:
            row = row._replace(token=token, keeper=keeper, attempt=number, claimed=row.created, cancelling=0)
            found.append(rows.readable_claim(row))
    return found


def _add_to_earlier(db: Db, job_id: int, token: str, end: End) -> bool:
    """Add this end to the attempt of this token, if it is lost; return whether the history has it."""
    this = end.ending.value, end.completed, end.exit_code
    attempts = db.execute(_EARLIER, (job_id, token, *this)).fetchall()
    if any((*known,) == this for _, _, *known, _ in attempts):
        return True
    for number, its_token, ending, _, _, found in attempts:
        if its_token != token or ending != Ending.LOST:
            continue
        if end.ending is Ending.LOST:  # this host has come to the same verdict
            return True
        if found is not None:
            return bool(found == dump_found(end))
        db.execute(_ADD_FOUND_EARLIER, (dump_found(end), end.started, job_id, number))
        return True
    return False
