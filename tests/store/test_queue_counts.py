"""The counts of queues in memory: against counting again, and what they cost with many queues."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shellrunner.model import Queued, State
from shellrunner.store.components.queue_counts import QueueCounts
from shellrunner.store.queues import ALL_QUEUES, Line, Pauses, QueueLimit, QueueLimits
from shellrunner.store.transition import Transition
from tests.support.function_calls import count_calls

QUEUES = ("default", "mail", "new", "old")
UNDONE = (State.WAITING, State.QUEUED, State.RUNNING)
CONFIGURED = {"default": QueueLimit(), "mail": QueueLimit(2)}
queues = st.sampled_from(QUEUES)


class CountsMachine(RuleBasedStateMachine):
    """Jobs that come, change their state and queue and go, while limits and pauses change."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[tuple[str, State]] = [("old", State.QUEUED), ("mail", State.RUNNING)]
        undone = [(Line(queue, None), state, 1) for queue, state in self.jobs]
        self.counts = QueueCounts(QueueLimits(None, CONFIGURED), undone)
        self.limits = dict(CONFIGURED)

    @rule(queue=queues, state=st.sampled_from(UNDONE))
    def add(self, queue: str, state: State) -> None:
        self.counts.apply(Transition(1, queue, None, None, state))
        self.jobs.append((queue, state))

    @rule(data=st.data(), queue=queues, after=st.sampled_from((*UNDONE, State.DONE)))
    def change(self, data: st.DataObject, queue: str, after: State) -> None:
        if not self.jobs:
            return
        previous, before = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
        moved = previous if previous != queue else None
        self.counts.apply(Transition(1, queue, None, before, after, previous_queue=moved))
        if after is not State.DONE:
            self.jobs.append((queue, after))

    @rule(stored=st.dictionaries(queues, st.sampled_from([QueueLimit(), QueueLimit(1), QueueLimit(3)]), max_size=3))
    def limit(self, stored: dict[str, QueueLimit]) -> None:
        self.counts.limit_queues(stored)
        self.limits = {**CONFIGURED, **stored}
        for queue in QUEUES:
            self.counts.remove(queue)

    @rule(paused=st.sets(st.sampled_from((*QUEUES, ALL_QUEUES)), max_size=2))
    def pause(self, paused: set[str]) -> None:
        self.counts.pauses = Pauses(frozenset(paused))

    @invariant()
    def counts_are_those_of_the_jobs(self) -> None:
        found = Counter(self.jobs)
        assert {
            (queue, state): number
            for queue in self.counts
            for state in UNDONE
            if (number := self.counts.count(queue, state))
        } == found
        unstarted = sum(number for (_, state), number in found.items() if state is not State.RUNNING)
        assert self.counts.unstarted() == unstarted
        paused = self.counts.pauses.queues
        capacity = self.counts.capacity().queues
        for queue in QUEUES:
            free = self.limits.get(queue, QueueLimit()).max_running
            free = 1 if free is None else free - found[queue, State.RUNNING]
            may_start = free > 0 and not paused & {queue, ALL_QUEUES} and queue in self.counts
            assert (capacity.get(queue, 0) > 0) == may_start
            if may_start and self.limits.get(queue, QueueLimit()).max_running is not None:
                assert capacity[queue] == free


TestCounts = CountsMachine.TestCase
TestCounts.settings = settings(max_examples=10, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize("question", ["capacity", "unstarted", "why_queued"])
def test_what_is_asked_for_each_job_is_as_cheap_with_many_queues(question: str) -> None:
    """With a thousand queues no more functions are called than with two."""
    calls = []
    for number in (2, 1000):
        limits = {f"queue-{index}": QueueLimit(1) for index in range(number)}
        counts = QueueCounts(QueueLimits(10_000, limits))
        asked: dict[str, Callable[[], object]] = {
            "capacity": counts.capacity,
            "unstarted": counts.unstarted,
            "why_queued": partial(counts.why_queued, Queued("queue-1"), None),
        }
        calls.append(count_calls(asked[question]))
    assert calls[0] == calls[1]
