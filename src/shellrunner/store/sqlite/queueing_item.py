"""An item of a write batch that may put jobs into a queue: requeued ones, and those that are due.

Made by the store and its maintenance, read by `claims`, which then lets the order of claims decide in the same batch.
Must not know connections or transactions.
"""

from collections.abc import Callable
from typing import Any

from shellrunner.model import State
from shellrunner.store.components.batch_queue import WorkItem
from shellrunner.store.db import UnitOfWork
from shellrunner.store.queues import Line
from shellrunner.store.transition import Transitions


class QueueingItem(WorkItem):
    """A unit after which jobs may be queued; `transitions` reads what it did to jobs from its value."""

    __slots__ = ("_transitions",)

    def __init__(
        self,
        unit: UnitOfWork[Any],
        on_commit: Callable[[Any], None],
        transitions: Callable[[Any], Transitions] = lambda value: value,
        *,
        on_failure: Callable[[Exception], None] | None = None,
        frees_space: bool = False,
    ) -> None:
        super().__init__(unit, on_commit, on_failure=on_failure, frees_space=frees_space)
        self._transitions = transitions

    def queued_lines(self) -> set[Line]:
        """Return the lines that its jobs were put into, once it was run."""
        if self.value is None:
            return set()
        transitions = self._transitions(self.value)
        return {Line(each.queue, each.submitter) for each in transitions if each.after is State.QUEUED}
