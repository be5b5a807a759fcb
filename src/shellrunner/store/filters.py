"""What a list is asked for: which jobs, in which order, and where the page begins.

Plain values, made by `web` and answered by every back end. Must not know SQL or HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from shellrunner.clock import Millis
from shellrunner.model import Done, Ending, Job, State


@dataclass(frozen=True, slots=True)
class Filters:
    """Which jobs are meant: those that fit everything that is given. None is any."""

    text: str | None = None  # a substring of the command, in any case
    states: frozenset[State] | None = None
    endings: frozenset[Ending] | None = None
    exit_codes: frozenset[int] | None = None
    queues: frozenset[str] | None = None
    labels: tuple[tuple[str, str], ...] = ()  # all of them
    created_from: Millis | None = None
    created_until: Millis | None = None  # not itself
    completed_from: Millis | None = None
    completed_until: Millis | None = None  # not itself
    min_duration: float | None = None
    max_duration: float | None = None
    with_result: bool = False  # done, and not deleted


class SortKey(StrEnum):
    """What jobs can be sorted by."""

    CREATED = "created"
    PRIORITY = "priority"
    QUEUE = "queue"
    STARTED = "started"
    COMPLETED = "completed"
    DURATION = "duration"
    EXIT_CODE = "exit_code"
    ENDING = "ending"


class Order(NamedTuple):
    """One key, and its direction. What is null comes last in either."""

    key: SortKey
    descending: bool


# The first key first; ties go by id in the direction of the last key. Nothing: the newest first, by id.
Sort = tuple[Order, ...]
Value = int | float | str | None
# A place between two jobs in some order: the values of the sort's keys and the id of what lies before it. Ids from 0
# to LAST also stand for the beginning or the end of all jobs with these values.
Position = tuple[Value, ...]
LAST: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs in order, and where the next page begins (None: there is nothing more)."""

    jobs: Sequence[Job]
    next: Position | None


def position(job: Job, sort: Sort) -> Position:
    """The place right behind this job."""
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
