"""Many jobs at once: which are meant, in pages from the newest on, and what becomes of each.

Units for the store's lanes. What comes while the pages are walked is not meant.
"""

import sqlite3
from collections.abc import Sequence

from shellrunner.model import State
from shellrunner.model.filters import Filters
from shellrunner.store import DeleteCount
from shellrunner.store.pagination import Position
from shellrunner.store.query import listing
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle

STEP = 100  # jobs that are deleted in one commit
NEWEST = "SELECT coalesce(max(id), 0) FROM jobs"


def newest(db: sqlite3.Connection) -> int:
    """The highest id that there is."""
    (job_id,) = db.execute(NEWEST).fetchone()
    return int(job_id)


def meant(
    db: sqlite3.Connection, filters: Filters, upto: int, after: Position | None
) -> tuple[list[int], Position | None]:
    """Some of the jobs that are meant, and where to look for more."""
    places, following = listing.positions(db, filters, listing.scan_order(filters), limit=STEP, after=after)
    job_ids = (int(place[-1] or 0) for place in places)
    # A clock that was set back lets new ones appear among the old.
    return [job_id for job_id in job_ids if job_id <= upto], following


def tell(db: sqlite3.Connection, job_ids: Sequence[int]) -> DeleteCount:
    """How many of these jobs are done, and how many are not."""
    states = [state for job_id in job_ids if (state := lifecycle.state_of(db, job_id)) is not None]
    done = sum(state is State.DONE for state in states)
    return DeleteCount(done, len(states) - done)


def delete(db: sqlite3.Connection, job_ids: Sequence[int]) -> tuple[DeleteCount, Transitions]:
    """Remove those of these jobs that are done."""
    states = [(job_id, lifecycle.state_of(db, job_id)) for job_id in job_ids]
    moves = [lifecycle.remove(db, job_id) for job_id, state in states if state is State.DONE]
    kept = sum(state is not None and state is not State.DONE for _, state in states)
    return DeleteCount(len(moves), kept), moves
