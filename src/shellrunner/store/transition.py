"""Transitions: what a unit of work did to jobs, and who is called once that is committed.

Made by the units, applied on the event loop: counts, notifications, claims, retention and indexing follow from
transitions alone. Must not know SQL.
"""

from typing import NamedTuple, Protocol

from shellrunner.clock import Millis
from shellrunner.model import Delivery, Ending, State
from shellrunner.store.output.location import SlotOwner


class Transition(NamedTuple):
    """A job went from one state (None: it did not exist) to another (None: it was deleted).

    Two events leave the state as it is: a requested cancellation (running to running), and a deleted result (done to
    done).

    size: bytes of stored output, if the job is done or was; None if its result had been deleted before.
    has_dependents: another job or the job's callback waits for its end.
    due: when it may start, if it waits only for that time.
    ending: how it ended, if it is done now.
    owner: who has claimed it, if it is running now.
    """

    job_id: int
    queue: str
    before: State | None
    after: State | None
    size: int | None = 0
    has_dependents: bool = False
    due: Millis | None = None
    attempts: int = 1
    ending: Ending | None = None
    owner: SlotOwner | None = None


Transitions = list[Transition]


class CommitListener(Protocol):
    """Applies the consequences of a commit.

    Called on the event loop after the commit, once per unit in their order, even if the unit's caller was cancelled
    meanwhile. Must not raise.
    """

    def committed(self, transitions: Transitions) -> None:
        """Follow what a unit did to jobs."""

    def pauses_committed(self, paused: frozenset[str]) -> None:
        """Use the new set of paused queues."""

    def callback_try_committed(self, outcome: Delivery | None) -> None:
        """Count a try to send a result; None if its job was deleted meanwhile."""
