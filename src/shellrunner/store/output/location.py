"""Where an attempt's output is: derived from the job's row, before any byte of it is read.

Used by `reader`. Knows the rows of `jobs`, `outputs` and `attempts`; must not know directories, slots or files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shellrunner.errors import NoSuchAttempt, NoSuchJob, ResultGone
from shellrunner.keeper.slot import ENTRY_SIZE, INDEX_CAPACITY
from shellrunner.model import State, Volume
from shellrunner.store.db import Db
from shellrunner.store.output import Head

LOCATE = """SELECT state, attempt, keeper, token, stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped,
    entries, data FROM jobs LEFT JOIN outputs ON outputs.job = jobs.id
    WHERE jobs.id = ?"""
ENDED = """SELECT jobs.id, attempt, token, stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped, entries, data
    FROM (SELECT value AS wanted FROM json_each(?)) AS list CROSS JOIN jobs ON jobs.id = wanted
    LEFT JOIN outputs ON outputs.job = jobs.id WHERE state = 'done' AND stdout_bytes IS NOT NULL"""
EARLIER_VOLUMES = """SELECT stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped FROM attempts
    WHERE job = ? AND number < ? ORDER BY number"""
EARLIER_ATTEMPT = """SELECT stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped, token, entries, data
    FROM attempts WHERE job = ? AND number = ?"""

FULL_INDEX: Final = INDEX_CAPACITY * ENTRY_SIZE  # bytes of an index that fills its place in the slot


@dataclass(frozen=True, slots=True)
class SlotOwner:
    """The keeper that runs an attempt, and so the slot to which the output is written."""

    keeper: int
    token: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """The part of an ended attempt's output that is in its row; what exceeds `head` was spilled to files.

    `token` is in the names of the files; None for those of an earlier version. Where several hosts share a history,
    what exceeds `head` is in chunks, also of an attempt that another host runs.
    """

    volume: Volume
    head: Head
    token: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the head is all of the output."""
        return self.volume.stored <= len(self.head.data) and len(self.head.index) < FULL_INDEX


@dataclass(frozen=True, slots=True)
class OutputLocation:
    """Where the output of an attempt is (None: it has not started), and the volumes of the attempts before it.

    so_far: what the history has of one that runs: read if its slot is not there. lags: another host runs it, so there
    may be more than the history has.
    """

    attempt: int
    place: SlotOwner | Recorded | None
    earlier: Sequence[Volume] = ()
    so_far: Recorded | None = None
    lags: bool = False


def locate(db: Db, job_id: int, attempt: int | None = None) -> OutputLocation:
    """Locate the output of all attempts of a job (None), or of one of them alone.

    Raises:
        NoSuchJob: never accepted, or deleted.
        NoSuchAttempt: the job has had no such attempt.
        ResultGone: the result was deleted.
    """
    row = db.execute(LOCATE, (job_id,)).fetchone()
    if row is None:
        raise NoSuchJob(job_id)
    state, latest, keeper, token, *figures, index, data = row
    if attempt is not None and attempt > latest:
        raise NoSuchAttempt(job_id, attempt)
    if state == State.DONE and figures[0] is None:
        raise ResultGone(job_id)
    if attempt is not None and attempt < latest:
        return OutputLocation(attempt, _earlier_attempt(db, job_id, attempt))
    place: SlotOwner | Recorded | None = None
    if state == State.DONE:
        place = Recorded(Volume(*figures), Head(data or b"", index or b""), token)
    elif state == State.RUNNING:
        place = SlotOwner(keeper, token, latest)
    if attempt is not None or latest == 1:
        return OutputLocation(latest, place)
    return OutputLocation(latest, place, [Volume(*row) for row in db.execute(EARLIER_VOLUMES, (job_id, latest))])


def locate_ended(db: Db, job_ids: Sequence[int]) -> Mapping[int, OutputLocation]:
    """Locate the output of the last attempt of those of these jobs that are done and have a result."""
    found: dict[int, OutputLocation] = {}
    for job_id, attempt, token, *figures, index, data in db.execute(ENDED, (json.dumps(job_ids),)):
        found[job_id] = OutputLocation(attempt, Recorded(Volume(*figures), Head(data or b"", index or b""), token))
    return found


def _earlier_attempt(db: Db, job_id: int, attempt: int) -> Recorded:
    *figures, token, index, data = db.execute(EARLIER_ATTEMPT, (job_id, attempt)).fetchone()
    return Recorded(Volume(*figures), Head(data, index), token)
