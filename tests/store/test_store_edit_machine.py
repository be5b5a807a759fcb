"""Editing against a model: hold, release, change, claim, end and cancel, in any order and at the same time."""

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from shellrunner.errors import AlreadyDone, AlreadyStarted, InvalidJob, ShellrunnerError
from shellrunner.model import Claim, JobSpec, State, Waiting
from shellrunner.store import JobEdit, QueueLimit, QueueLimits
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import NOTHING, called, ended, opened

LATER = "2100-01-01T00:00:00.000Z"
QUEUES = QueueLimits(queues={"default": QueueLimit(), "other": QueueLimit()})


@dataclass
class Known:
    """A job of the model; `unfinished` are those that it waits for."""

    spec: JobSpec
    unfinished: set[int]
    state: State = State.QUEUED
    token: str | None = None

    def settle(self) -> None:
        """Decide whether it waits."""
        waits = self.spec.held or self.unfinished or self.spec.start_at
        self.state = State.WAITING if waits else State.QUEUED


changes = st.fixed_dictionaries(
    {},
    optional={
        "held": st.booleans(),
        "priority": st.integers(-1, 1),
        "queue": st.sampled_from(["default", "other"]),
        "start_at": st.sampled_from([None, LATER, "2000-01-01T00:00:00.000Z"]),
        "name": st.sampled_from([None, "a", "b"]),
        "labels": st.sampled_from([{}, {"a": "1"}, {"a": "2", "b": "1"}]),
        "timeout": st.sampled_from([None, 1.0]),
    },
)


class EditMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.known: dict[int, Known] = {}
        self.started: list[int] = []
        self.stack = AsyncExitStack()
        self.store: SqliteStore = self.run(self.stack.enter_async_context(opened(self.path, QUEUES)))

    def run(self, call: Any) -> Any:
        async def within() -> Any:
            return await asyncio.wait_for(call, 10)

        return self.runner.run(within())

    @rule(target=jobs, held=st.sampled_from([True, True, False]), after=st.lists(jobs, max_size=2, unique=True))
    def add(self, held: bool, after: list[int]) -> int:
        spec = JobSpec(command="true", held=held, after=tuple(after))
        job = self.run(self.store.add(spec))
        unfinished = {each for each in after if self.known[each].state is not State.DONE}
        known = self.known[job.id] = Known(spec, unfinished)
        known.settle()
        if any(self.failed(each) for each in after):
            self.end(job.id, None)
        return int(job.id)

    def failed(self, job: int) -> bool:
        known = self.known[job]
        return known.state is State.DONE and known.token != "succeeded"

    def edit_of(self, job: int, change: dict[str, Any]) -> JobEdit:
        known = self.known[job]
        given = {key: getattr(known.spec, key) for key in known.spec.model_fields_set}
        return JobEdit(job, known.spec, JobSpec.model_validate(given | change))

    def expected_error(self, job: int, edit: JobEdit) -> type[ShellrunnerError] | None:
        known = self.known[job]
        if known.state is State.DONE:
            return AlreadyDone
        if known.state is State.RUNNING:
            return AlreadyStarted
        added = [each for each in edit.after.after if each not in known.spec.after]
        wrong = any(each == job or self.failed(each) or self.waits_for(each, job) for each in added)
        return InvalidJob if wrong else None

    def waits_for(self, job: int, other: int) -> bool:
        """Return whether a job waits for another one, also through others."""
        known = self.known[job]
        if known.state is State.DONE:
            return False
        return other in known.unfinished or any(self.waits_for(each, other) for each in known.unfinished)

    def apply(self, job: int, edit: JobEdit) -> None:
        """Follow an edit that took effect."""
        known = self.known[job]
        added = {each for each in edit.after.after if each not in known.spec.after}
        known.unfinished = {each for each in known.unfinished if each in edit.after.after}
        known.unfinished |= {each for each in added if self.known[each].state is not State.DONE}
        start_at = edit.after.start_at if edit.after.start_at == LATER else None
        known.spec = edit.after.model_copy(update={"start_at": start_at})
        known.settle()
        known.spec = edit.after

    @rule(job=jobs, after=st.lists(jobs, max_size=2, unique=True))
    def wait_for_others(self, job: int, after: list[int]) -> None:
        self.edit(job, {"after": after})

    @rule(job=jobs, change=changes)
    def edit(self, job: int, change: dict[str, Any]) -> None:
        edit = self.edit_of(job, change)
        error = self.expected_error(job, edit)
        if error is not None:
            with pytest.raises(error):
                self.run(self.store.edit_job(edit))
        else:
            assert self.run(self.store.edit_job(edit)).spec == edit.after
            if edit.after != edit.before:
                self.apply(job, edit)

    def first(self) -> int:
        """Return the job that is claimed next."""
        return min((-known.spec.priority, job) for job, known in self.known.items() if known.state is State.QUEUED)[1]

    def queued(self) -> int:
        return sum(known.state is State.QUEUED for known in self.known.values())

    def claimed(self, claim: Claim, token: str) -> None:
        known = self.known[claim.job_id]
        assert known.state is State.QUEUED, "it was claimed while it was held, waited, ran or was done"
        assert not claim.spec.held
        assert claim.spec == known.spec
        assert claim.job_id not in self.started, "it was started twice"
        self.started.append(claim.job_id)
        known.state, known.token = State.RUNNING, token

    @precondition(lambda self: self.queued())
    @rule()
    def claim(self) -> None:
        expected, token = self.first(), f"t{len(self.started)}"
        claim = self.run(self.store.claim(1, token))
        assert claim.job_id == expected
        self.claimed(claim, token)

    @precondition(lambda self: self.queued())
    @rule(job=jobs, change=changes, claim_first=st.booleans())
    def edit_and_claim_at_once(self, job: int, change: dict[str, Any], claim_first: bool) -> None:
        if not self.queued() - (self.known[job].state is State.QUEUED):
            return  # nothing else is certain to be claimed
        edit, token = self.edit_of(job, change), f"t{len(self.started)}"
        before = self.first()

        async def both() -> list[Any]:
            calls = [self.store.claim(1, token), self.store.edit_job(edit)]
            found = await asyncio.gather(*calls[:: 1 if claim_first else -1], return_exceptions=True)
            return found[:: 1 if claim_first else -1]

        claim, edited = self.run(both())
        took_effect = not isinstance(edited, Exception)
        if took_effect and claim.job_id != job:
            if edit.after != edit.before:
                self.apply(job, edit)
            assert claim.job_id in (before, self.first())
            self.claimed(claim, token)
        elif took_effect:  # edited, and then claimed as edited
            if edit.after != edit.before:
                self.apply(job, edit)
            self.claimed(claim, token)
        else:
            assert isinstance(edited, AlreadyStarted | AlreadyDone), edited
            assert claim.job_id == before
            self.claimed(claim, token)
            assert self.known[job].state in (State.RUNNING, State.DONE)

    @rule(job=jobs, code=st.sampled_from([0, 1]))
    def finish(self, job: int, code: int) -> None:
        known = self.known[job]
        if known.state is State.RUNNING:
            assert self.run(called(self.store.finish, job, known.token, ended(code), *NOTHING))
            self.end(job, "succeeded" if code == 0 else None)

    @rule(job=jobs)
    def cancel(self, job: int) -> None:
        if self.known[job].state in (State.WAITING, State.QUEUED):
            self.run(self.store.request_cancel(job))
            self.end(job, None)

    def end(self, job: int, token: str | None) -> None:
        """Follow the end of a job: others wait no more, or are skipped."""
        known = self.known[job]
        known.state, known.token = State.DONE, token
        for other, waiting in self.known.items():
            if job in waiting.unfinished and waiting.state is State.WAITING:
                waiting.unfinished.discard(job)
                if token is None:
                    self.end(other, None)
                elif not waiting.unfinished and not waiting.spec.held and waiting.spec.start_at != LATER:
                    waiting.state = State.QUEUED

    @invariant()
    def all_is_as_known(self) -> None:
        counts = dict.fromkeys(("default", "other"), 0)
        for job in self.run(self.store.jobs(self.known)):
            known = self.known[job.id]
            assert job.state is known.state, job
            assert job.spec == known.spec
            counts[known.spec.queue] += known.state in (State.WAITING, State.QUEUED)
            if isinstance(job.phase, Waiting):
                assert job.phase.held == known.spec.held
                assert job.phase.awaits == len(known.unfinished)
                assert job.phase.awaited == min(known.unfinished, default=None)
        for queue in self.run(self.store.queues()).queues:
            assert queue.queued + queue.waiting == counts[queue.name]

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.run(self.stack.aclose())
            self.runner.close()
            shutil.rmtree(self.path)


TestEdits = pytest.mark.heavy(EditMachine.TestCase)
TestEdits.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
