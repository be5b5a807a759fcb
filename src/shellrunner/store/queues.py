"""Queues as plain values: their configured limits, and their current state.

Part of the store's contract, kept by every back end. Must not know how jobs are counted or stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shellrunner.clock import Millis

ALL_QUEUES: Final = "*"  # stands among the paused queues if the whole service is paused; no queue can have this name

DEFAULT_QUEUE: Final = "default"  # of a job that names none

MAX_QUEUES: Final = 1000  # after which no further one is made at run time


class Hold(NamedTuple):
    """Why and since when nothing is started, sent or removed: the history was copied or restored from a backup."""

    reason: str
    since: Millis


class Pauses(NamedTuple):
    """The paused queues (`ALL_QUEUES` for the whole service), and why the history is held, if it is."""

    queues: frozenset[str] = frozenset()
    held: Hold | None = None


class QueueLimit(NamedTuple):
    """How many jobs of one queue may run and how many may wait. None: no limit of its own."""

    max_running: int | None = None
    max_queued: int | None = None


class SubmitterLimit(NamedTuple):
    """How many jobs of one submitter may run and how many may wait, in all queues together. None: no such limit."""

    max_running: int | None = None
    max_queued: int | None = None


class Line(NamedTuple):
    """The jobs of one submitter in one queue: among them only priority and age decide who is next."""

    queue: str
    submitter: str | None


@dataclass(slots=True)
class Capacity:
    """How many more jobs may start, of each queue that may start any, and of each submitter that has a limit."""

    queues: dict[str, int]
    submitters: dict[str, int]

    def __bool__(self) -> bool:
        """Return whether any queue may start a job."""
        return bool(self.queues)

    def allows(self, line: Line) -> bool:
        """Return whether a job of this line may start."""
        return self.queues.get(line.queue, 0) > 0 and self.submitters.get(line.submitter or "", 1) > 0

    def take(self, line: Line) -> None:
        """Count a job of this line that starts."""
        self.queues[line.queue] -= 1
        if line.submitter in self.submitters:
            self.submitters[line.submitter] -= 1

    def copy(self) -> "Capacity":
        """Return a copy that can be used up by itself."""
        return Capacity(dict(self.queues), dict(self.submitters))


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The limits of the queues that config names; `max_queued` is for the jobs that wait in all of them together.

    `submitters`: the limits of those that have any.
    """

    max_queued: int | None = None
    queues: Mapping[str, QueueLimit] = field(default_factory=lambda: {DEFAULT_QUEUE: QueueLimit()})
    submitters: Mapping[str, SubmitterLimit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue: its limits, and how many of its jobs are in each state.

    `is_configured`: config names it, so it cannot be removed. `oldest` is when the oldest of its queued jobs was
    accepted.
    """

    name: str
    limit: QueueLimit
    is_configured: bool
    paused: bool
    running: int
    queued: int
    waiting: int
    oldest: Millis | None


@dataclass(frozen=True, slots=True)
class QueueOverview:
    """All queues, by name. `paused` if the whole service is, including queues that do not exist yet.

    `held`: why, if the history was copied or restored, until an admin resumes.
    """

    paused: bool
    queues: Sequence[QueueState]
    held: Hold | None = None
