"""What a witness reports of a job that was declared lost meanwhile: it is added, once, and changes no ending.

Units of the store, for ends of jobs that do not run any more by the history. Must not know who the witness is.
"""

from typing import Final, NamedTuple

from shellrunner.model import End, Ending, State, Volume
from shellrunner.store.columns import dump_found
from shellrunner.store.db import Db
from shellrunner.store.output import Head
from shellrunner.store.transition import Transition, Transitions

_ENDED: Final = """SELECT queue, submitter, ending, completed, exit_code, token, found, stdout_bytes IS NULL
    FROM jobs WHERE id = ? AND state = 'done' FOR UPDATE"""
_EARLIER_ATTEMPT: Final = """SELECT 1 FROM attempts WHERE job = ? AND ending = ? AND completed = ?
    AND exit_code IS NOT DISTINCT FROM ?"""
_ADD_FOUND: Final = "UPDATE jobs SET found = ?, started = coalesce(started, ?) WHERE id = ?"
_ADD_VOLUME: Final = """UPDATE jobs SET stdout_bytes = ?, stderr_bytes = ?, stdout_dropped = ?, stderr_dropped = ?
    WHERE id = ?"""
_ADD_OUTPUT: Final = "INSERT INTO outputs (job, entries, data) VALUES (?, ?, ?) ON CONFLICT (job) DO NOTHING"


class RecordedEnd(NamedTuple):
    """Whether the history has this end, and what was done to the job for that."""

    is_known: bool
    transitions: Transitions


def add(db: Db, job_id: int, token: str, *, end: End, volume: Volume, head: Head) -> RecordedEnd:
    """Add this end to the job, if it is lost, was claimed under this token, and has none yet.

    An end that was committed before, though its commit was not answered, is known already.
    """
    row = db.execute(_ENDED, (job_id,)).fetchone()
    if row is None:  # another attempt may follow, or run
        ended = db.execute(_EARLIER_ATTEMPT, (job_id, end.ending.value, end.completed, end.exit_code)).fetchall()
        return RecordedEnd(bool(ended), [])
    queue, submitter, ending, completed, exit_code, its_token, found, is_deleted = row
    if (ending, completed, exit_code) == (end.ending.value, end.completed, end.exit_code):
        return RecordedEnd(is_known=True, transitions=[])
    if ending != Ending.LOST or its_token != token:
        return RecordedEnd(is_known=False, transitions=[])
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
