"""Order and pages of a list: sort keys, positions between jobs, and one page.

Plain values, made by `web` and answered by every back end; which jobs are listed is `model.filters`'. Must not know
SQL or HTTP.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from shellrunner.clock import Millis
from shellrunner.model import Job, JobStatus


class SortKey(StrEnum):
    """A property by which jobs can be sorted."""

    CREATED = "created"
    PRIORITY = "priority"
    QUEUE = "queue"
    NAME = "name"
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


class ListedJob(Hashable, Protocol):
    """A job of a page, as it was read. Equal ones have equal documents, so what was made of one can be kept.

    That holds for all that the history says of it; not for the pid of a running one, nor for output in files.
    """

    @property
    def id(self) -> int:
        """The job's id."""

    @property
    def size(self) -> int:
        """How much memory it takes, in bytes: most of it is the specification, of up to a megabyte."""

    @property
    def is_running(self) -> bool:
        """Whether it runs."""

    @property
    def claimed(self) -> Millis | None:
        """When it was claimed, if it runs."""

    @property
    def is_queued(self) -> bool:
        """Whether it is ready to start, as far as it is concerned itself."""

    @property
    def is_done(self) -> bool:
        """Whether it has ended for good."""

    @property
    def has_result(self) -> bool:
        """Whether it is done, and its result was not deleted."""

    def job(self) -> Job:
        """Return the job, or what can be read of it if its row is damaged: it must not hide the others of a list.

        Raises:
            StoreUnavailable: its end cannot be read.
        """

    def whole_job(self) -> Job:
        """Return the job.

        Raises:
            StoreUnavailable: its row is damaged.
        """

    def status(self) -> JobStatus:
        """Return how far it is, also if it was read without its specification.

        Raises:
            StoreUnavailable: its end cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs in order, each with its position, and where the next page begins (None: this is the last page)."""

    jobs: Sequence[ListedJob]
    positions: Sequence[Position]
    next: Position | None
