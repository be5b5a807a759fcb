"""The jobs that a filter selects, in small pages from the newest on, for changes of many jobs.

Used by the store's bulk changes. Jobs that are accepted while the pages are read are not selected. Must not write.
"""

from typing import Final

from shellrunner.model.filters import Filters
from shellrunner.store.db import Db
from shellrunner.store.pagination import Position
from shellrunner.store.query import listing, search
from shellrunner.store.query.walk import PlanText

BATCH_SIZE = 100  # jobs that are changed in one commit
NEWEST: Final = "SELECT coalesce(max(id), 0) FROM jobs"


def newest(db: Db) -> int:
    """Return the highest id of all jobs."""
    (job_id,) = db.execute(NEWEST).fetchone()
    return int(job_id)


def page(
    db: Db, filters: Filters, up_to: int, after: Position | None, plan_text: PlanText = search.plan
) -> tuple[list[int], Position | None]:
    """Return some of the matching jobs up to this id, and where the next page begins."""
    order = listing.scan_order(filters)
    positions, following = listing.positions(db, filters, order, limit=BATCH_SIZE, after=after, plan_text=plan_text)
    job_ids = (int(position[-1] or 0) for position in positions)
    # If the clock was set back, new jobs appear among the old ones.
    return [job_id for job_id in job_ids if job_id <= up_to], following
