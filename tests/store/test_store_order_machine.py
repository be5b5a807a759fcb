"""When jobs may start, against a model of a few lines: queues, submitters, pauses, `after`, `start_at`, retries."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shellrunner.errors import JobGone, KeyReused, QueueFull, TooManyQueuedJobs
from shellrunner.model import Done, End, Ending, JobSpec, Retries, State, Submitter, Volume, next_attempt_at
from shellrunner.store import Head, IdempotencyKey, QueueLimit, QueueLimits, SubmitterLimit
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import called, everything, opened

LIMITS = QueueLimits(6, {"default": QueueLimit(), "one": QueueLimit(1, 3), "two": QueueLimit(2)})
FAR_FUTURE = "2100-01-01T00:00:00.000Z"
places = st.integers(0, 20)
names = st.sampled_from(sorted(LIMITS.queues))
SUBMITTERS = (None, Submitter("token:free"), Submitter("token:few"), Submitter("token:none"))
SHARES: tuple[dict[str, SubmitterLimit], ...] = (
    {},
    {"token:few": SubmitterLimit(1, 2), "token:none": SubmitterLimit(max_queued=1)},
    {"token:few": SubmitterLimit(2), "token:free": SubmitterLimit(1, 1)},
)


@dataclass
class Known:
    spec: JobSpec
    state: State
    submitter: str | None = None
    awaits: set[int] = field(default_factory=set)
    attempt: int = 1
    token: str | None = None
    ending: Ending | None = None
    fine: bool = False


class OrderMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.known: dict[int, Known] = {}
        self.keys: dict[str, tuple[bytes, int]] = {}
        self.paused: set[str] = set()
        self.claims: list[tuple[int, str]] = []
        self.tokens = 0
        self.shares: Mapping[str, SubmitterLimit] = SHARES[1]
        self.open()

    def open(self) -> None:
        self.stack = AsyncExitStack()
        opening = opened(self.path, replace(LIMITS, submitters=self.shares))
        self.store: SqliteStore = self.run(self.stack.enter_async_context(opening))

    def run(self, call: Any) -> Any:
        async def within() -> Any:
            return await asyncio.wait_for(call, 10)

        return self.runner.run(within())

    # What the model knows

    def is_paused(self, queue: str) -> bool:
        return not self.paused.isdisjoint({queue, "*"})

    def share(self, submitter: str | None) -> SubmitterLimit:
        return self.shares.get(submitter or "", SubmitterLimit())

    def count_own(self, submitter: str | None, *states: State) -> int:
        return sum(known.state in states and known.submitter == submitter for known in self.known.values())

    def count(self, state: State, queue: str | None = None) -> int:
        return sum(known.state is state and queue in (None, known.spec.queue) for known in self.known.values())

    def startable(self) -> list[int]:
        def may(known: Known) -> bool:
            queue = known.spec.queue
            limit = LIMITS.queues[queue].max_running
            has_free_slot = limit is None or self.count(State.RUNNING, queue) < limit
            own = self.share(known.submitter).max_running
            has_share = own is None or self.count_own(known.submitter, State.RUNNING) < own
            return known.state is State.QUEUED and has_free_slot and has_share and not self.is_paused(queue)

        return [job for job, known in self.known.items() if may(known)]

    def is_full(self, queue: str) -> bool:
        def waiting(queue: str | None) -> int:
            return self.count(State.QUEUED, queue) + self.count(State.WAITING, queue)

        own = LIMITS.queues[queue].max_queued
        return waiting(None) >= (LIMITS.max_queued or 0) or (own is not None and waiting(queue) >= own)

    def ended(self, job: int, ending: Ending, *, fine: bool) -> None:
        known = self.known[job]
        known.state, known.ending, known.fine, known.token = State.DONE, ending, fine, None
        for follower, other in self.known.items():
            if job in other.awaits and other.state is State.WAITING:
                other.awaits.discard(job)
                if not fine:
                    self.ended(follower, Ending.SKIPPED, fine=False)
                elif not other.awaits and other.spec.start_at is None:
                    other.state = State.QUEUED

    # What happens

    @rule(
        queue=names,
        priority=st.integers(-1, 1),
        after=st.just([]) | st.lists(places, max_size=2),
        far=st.integers(0, 5).map(lambda number: number == 0),
        retries=st.none() | st.builds(Retries, max=st.integers(1, 2), delay=st.sampled_from([0.0, 1e6])),
        key=st.none() | st.none() | st.sampled_from(["a", "b"]),
        body=st.sampled_from([b"x", b"x", b"y"]),
        by=st.sampled_from(SUBMITTERS),
    )
    def add(
        self,
        *,
        queue: str,
        priority: int,
        after: list[int],
        far: bool,
        retries: Any,
        key: str | None,
        body: bytes,
        by: Submitter | None,
    ) -> None:
        after = list(dict.fromkeys(sorted(self.known)[place % len(self.known)] for place in after if self.known))
        start_at = FAR_FUTURE if far else None
        spec = JobSpec(
            command="true", queue=queue, priority=priority, after=tuple(after), start_at=start_at, retries=retries
        )
        call = self.store.add(spec, IdempotencyKey("", key, body) if key else None, by)
        if key in self.keys:
            self.again(call, body, *self.keys[key])
            return
        submitter = by.name if by else None
        own = self.share(submitter).max_queued
        if own is not None and self.count_own(submitter, State.WAITING, State.QUEUED) >= own:
            with pytest.raises(TooManyQueuedJobs):
                self.run(call)
            return
        if self.is_full(queue):
            with pytest.raises(QueueFull):
                self.run(call)
            return
        job = self.run(call)
        if key:
            self.keys[key] = (body, job.id)
        awaits = {one for one in after if self.known[one].state is not State.DONE}
        known = self.known[job.id] = Known(spec, State.WAITING if far or awaits else State.QUEUED, submitter, awaits)
        if any(self.known[one].state is State.DONE and not self.known[one].fine for one in after):
            known.awaits = set()
            self.ended(job.id, Ending.SKIPPED, fine=False)
        assert job.state is known.state

    def again(self, call: Any, body: bytes, first: bytes, job_id: int) -> None:
        if body != first:
            with pytest.raises(KeyReused):
                self.run(call)
        elif job_id not in self.known:
            with pytest.raises(JobGone):
                self.run(call)
        else:
            job = self.run(call)
            assert (job.id, job.state) == (job_id, self.known[job_id].state)

    @rule()
    def claim(self) -> None:
        self.tokens += 1
        token, startable = f"t{self.tokens}", self.startable()
        if not startable:
            with pytest.raises(TimeoutError):
                self.run(asyncio.wait_for(self.store.claim(1, token), 0.02))
            return
        claim = self.run(self.store.claim(1, token))
        assert claim.job_id == min(startable, key=lambda job: (-self.known[job].spec.priority, job))
        known = self.known[claim.job_id]
        assert claim.attempt == known.attempt
        known.state, known.token = State.RUNNING, token
        self.claims.append((claim.job_id, token))

    @rule(place=places, code=st.sampled_from([0, 0, 1]))
    def finish(self, place: int, code: int) -> None:
        if not self.claims:
            return
        job, token = self.claims.pop(place % len(self.claims))
        known = self.known.get(job)
        end = End(Ending.EXITED, time.time_ns() // 1_000_000, exit_code=code)
        due = next_attempt_at(known.spec, known.attempt, end, end.completed) if known else None
        took = self.run(called(self.store.finish, job, token, end, Volume(), Head(), next_attempt_at=due))
        assert took == (known is not None and known.token == token)
        if known is None or not took:
            return
        if due is None:
            self.ended(job, Ending.EXITED, fine=code == 0)
        else:
            late = known.spec.retries is not None and known.spec.retries.delay == 0
            known.state, known.token = State.QUEUED if late else State.WAITING, None
            known.attempt += 1

    @rule(place=places)
    def cancel(self, place: int) -> None:
        job = self.one(place)
        known = self.known.get(job)
        if known and known.state in (State.WAITING, State.QUEUED):
            self.run(self.store.request_cancel(job))
            self.ended(job, Ending.CANCELLED, fine=False)

    @rule(place=places)
    def delete(self, place: int) -> None:
        job = self.one(place)
        if job in self.known and self.known[job].state is State.DONE:
            self.run(self.store.delete_job(job))
            del self.known[job]

    def one(self, place: int) -> int:
        return sorted(self.known)[place % len(self.known)] if self.known else 0

    @rule(queue=st.none() | names, paused=st.integers(0, 2).map(lambda number: number == 0))
    def pause(self, queue: str | None, *, paused: bool) -> None:
        self.run(self.store.pause(queue, paused=paused))
        if queue is None:
            self.paused = {"*"} if paused else set()
        elif paused:
            self.paused |= {queue}
        else:
            self.paused = (set(LIMITS.queues) if "*" in self.paused else self.paused) - {queue}

    @rule(shares=st.sampled_from(SHARES))
    def limit(self, shares: Mapping[str, SubmitterLimit]) -> None:
        self.shares = shares
        self.store.limit_submitters(shares)

    @rule()
    def reopen(self) -> None:
        self.run(self.stack.aclose())
        self.open()

    @invariant()
    def history_is_as_known(self) -> None:
        if not hasattr(self, "store"):
            return
        found = {job.id: job for job in self.run(everything(self.store))}
        states = {job: known.state for job, known in self.known.items()}
        assert {job: one.state for job, one in found.items()} == states
        for job, known in self.known.items():
            phase = found[job].phase
            assert (phase.end.ending if isinstance(phase, Done) else None) == known.ending
            assert found[job].attempt == known.attempt
        queues = self.run(self.store.queues())
        assert queues.paused == ("*" in self.paused)
        for queue in queues.queues:
            assert queue.paused == self.is_paused(queue.name)
            assert [queue.running, queue.queued, queue.waiting] == [
                self.count(state, queue.name) for state in (State.RUNNING, State.QUEUED, State.WAITING)
            ]
            assert (queue.oldest is None) == (queue.queued == 0)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.stack.aclose())
            self.runner.close()
            shutil.rmtree(self.path)


TestOrder = pytest.mark.heavy(OrderMachine.TestCase)
TestOrder.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
