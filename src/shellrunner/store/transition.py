"""Transitions: what a unit of work did to jobs, and who is called once that is committed.

Made by the units, applied on the event loop: counts, notifications, claims, retention and indexing follow from
transitions alone. Must not know SQL.
"""

from typing import NamedTuple, Protocol

from shellrunner.clock import Millis
from shellrunner.model import Delivery, Ending, State
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.queues import Pauses


class Transition(NamedTuple):
    """A job went from one state (None: it did not exist) to another (None: it was deleted).

    Two events leave the state as it is: a requested cancellation (running to running), and a deleted result (done to
    done).

    size: bytes of stored output, if the job is done or was; None if its result had been deleted before.
    has_dependents: another job or the job's callback waits for its end.
    submitter: who submitted it, if that is known.
    due: when it may start, if it waits only for that time.
    ending: how it ended, if it is done now.
    tokens: if its result was deleted, of each attempt the claim token, which is in the names of its files (None: it
        has none, or of an earlier version).
    owner: who has claimed it, if it is running now.
    previous_queue: the one that it was in before, if it was moved to another one.
    key: with which its secrets are sealed, if it has any and was accepted now.
    """

    job_id: int
    queue: str
    submitter: str | None
    before: State | None
    after: State | None
    size: int | None = 0
    has_dependents: bool = False
    due: Millis | None = None
    tokens: tuple[str | None, ...] = (None,)
    ending: Ending | None = None
    owner: SlotOwner | None = None
    key: str | None = None
    previous_queue: str | None = None


Transitions = list[Transition]


class CommitListener(Protocol):
    """Applies the consequences of a commit.

    Called on the event loop after the commit, once per unit in their order, even if the unit's caller was cancelled
    meanwhile. Must not raise.
    """

    def committed(self, transitions: Transitions) -> None:
        """Follow what a unit did to jobs."""

    def pauses_committed(self, pauses: Pauses) -> None:
        """Use the new set of paused queues."""

    def callback_try_committed(self, outcome: Delivery | None) -> None:
        """Count a try to send a result; None if its job was deleted meanwhile."""
