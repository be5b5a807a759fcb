"""Order and pages of a list: sort keys, positions between jobs, and one page.

Plain values, made by `web` and answered by every back end; which jobs are listed is `model.filters`'. Must not know
SQL or HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from shellrunner.model import Done, Job


class SortKey(StrEnum):
    """A property by which jobs can be sorted."""

    CREATED = "created"
    PRIORITY = "priority"
    QUEUE = "queue"
    STARTED = "started"
    COMPLETED = "completed"
    DURATION = "duration"
    EXIT_CODE = "exit_code"
    ENDING = "ending"


class Order(NamedTuple):
    """One sort key and its direction. Null comes last in both directions."""

    key: SortKey
    descending: bool


# The first key counts first; ties are ordered by id, in the direction of the last key. Empty: by id, newest first.
Sort = tuple[Order, ...]
Value = int | float | str | None
# A place between two jobs in some order (keyset pagination): the values of the sort's keys and the id of the job just
# before it. The ids 0 and MAX_ID also stand for the beginning or the end of all jobs with these values.
Position = tuple[Value, ...]
MAX_ID: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs in order, and the position where the next page begins (None: this is the last page)."""

    jobs: Sequence[Job]
    next: Position | None


def position_after(job: Job, sort: Sort) -> Position:
    """Return the position just after this job."""
    values: dict[SortKey, Value] = {
        SortKey.CREATED: job.created,
        SortKey.PRIORITY: job.spec.priority,
        SortKey.QUEUE: job.spec.queue,
    }
    if isinstance(job.phase, Done):
        end = job.phase.end
        values |= {
            SortKey.STARTED: end.started,
            SortKey.COMPLETED: end.completed,
            SortKey.DURATION: end.duration,
            SortKey.EXIT_CODE: end.exit_code,
            SortKey.ENDING: end.ending.value,
        }
    return (*(values.get(order.key) for order in sort), job.id)
