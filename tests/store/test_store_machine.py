"""The store against a model of a few lines, across restarts."""

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from shellrunner.errors import AlreadyDone, NoResultYet, NoSuchJob, NotDone, ResultGone, ShellrunnerError
from shellrunner.model import Done, End, Ending, JobSpec, Queued, Running, State, Usage, Volume
from shellrunner.store import Head
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import called, listed, opened


@dataclass(frozen=True)
class Known:
    spec: JobSpec
    state: State = State.QUEUED
    token: str | None = None
    keeper: int | None = None
    cancelling: bool = False
    end: End | None = None
    volume: Volume | None = None
    head: bytes = b""


counts = st.integers(0, 2**40)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
specs = st.builds(
    JobSpec,
    command=texts,
    priority=st.integers(-2, 2),
    env=st.dictionaries(st.sampled_from(["A", "Ключ"]), texts, max_size=1),
    stdin=st.none() | texts,
    timeout=st.none() | st.floats(0.001, 1e6),
    merge_stderr=st.booleans(),
    encoding=st.sampled_from(["utf-8", "koi8-r"]),
)
usages = st.none() | st.builds(
    Usage, st.floats(0, 1e6), st.floats(0, 1e6), max_rss_bytes=st.none() | st.integers(0, 2**40)
)
shared = {
    "completed": counts,
    "started": st.none() | counts,
    "duration": st.none() | st.floats(0, 1e9),
    "usage": usages,
}
ends = st.one_of(
    st.builds(End, st.just(Ending.EXITED), exit_code=st.integers(0, 255), **shared),
    st.builds(End, st.just(Ending.SIGNALLED), signal=st.just("SIGKILL"), **shared),
    st.builds(End, st.sampled_from([Ending.LOST, Ending.FAILED_TO_START]), detail=texts, **shared),
    st.builds(End, st.just(Ending.TIMED_OUT), exit_code=st.none() | st.integers(0, 255), **shared),
)


class HistoryMachine(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    claims = Bundle("claims")

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.known: dict[int, Known] = {}
        self.last = 0
        self.tokens = 0
        self.open()

    def open(self) -> None:
        self.stack = AsyncExitStack()
        self.store: SqliteStore = self.run(self.stack.enter_async_context(opened(self.path)))

    def run(self, call: Any) -> Any:
        async def within() -> Any:
            return await asyncio.wait_for(call, 10)

        return self.runner.run(within())

    def refused(self, call: Any, error: type[ShellrunnerError]) -> None:
        with pytest.raises(error):
            self.run(call)

    @rule(target=jobs, spec=specs)
    def add(self, spec: JobSpec) -> int:
        job = self.run(self.store.add(spec))
        assert job.id > self.last, "an id was given twice"
        self.last = job.id
        self.known[job.id] = Known(spec)
        return int(job.id)

    @rule(target=claims)
    def claim(self) -> tuple[int, str] | None:
        queued = [(-known.spec.priority, job) for job, known in self.known.items() if known.state is State.QUEUED]
        if not queued:
            return None
        self.tokens += 1
        token, keeper = f"t{self.tokens}", self.tokens % 3
        claim = self.run(self.store.claim(keeper, token))
        job = min(queued)[1]
        assert (claim.job_id, claim.token, claim.keeper) == (job, token, keeper)
        assert claim.spec == self.known[job].spec
        self.known[job] = replace(self.known[job], state=State.RUNNING, token=token, keeper=keeper)
        return job, token

    def holds(self, claim: tuple[int, str] | None) -> bool:
        return claim is not None and claim[0] in self.known and self.known[claim[0]].token == claim[1]

    @rule(
        claim=consumes(claims),
        end=ends,
        volume=st.builds(Volume, counts, counts, counts, counts),
        head=st.binary(max_size=64),
    )
    def finish(self, claim: tuple[int, str] | None, end: End, volume: Volume, head: bytes) -> None:
        if claim is None:
            return
        held = self.holds(claim)
        assert self.run(called(self.store.finish, *claim, end, volume, Head(head, b""))) == held
        if held:
            known = self.known[claim[0]]
            self.known[claim[0]] = replace(
                known, state=State.DONE, token=None, cancelling=False, end=end, volume=volume, head=head
            )

    @rule(claim=claims)
    def requeue(self, claim: tuple[int, str] | None) -> None:
        if claim is None:
            return
        held = self.holds(claim)
        assert self.run(called(self.store.requeue, *claim)) == held
        if held:
            known = self.known[claim[0]]
            self.known[claim[0]] = (
                self.cancelled(claim[0]) if known.cancelling else replace(known, state=State.QUEUED, token=None)
            )

    def cancelled(self, job: int) -> Known:
        phase = self.run(self.store.job(job)).phase
        assert isinstance(phase, Done)
        assert phase.end == End(Ending.CANCELLED, phase.end.completed)
        return replace(
            self.known[job], state=State.DONE, token=None, cancelling=False, end=phase.end, volume=Volume(), head=b""
        )

    @rule(job=jobs)
    def request_cancel(self, job: int) -> None:
        known = self.known.get(job)
        if known is None:
            self.refused(self.store.request_cancel(job), NoSuchJob)
        elif known.state is State.DONE:
            self.refused(self.store.request_cancel(job), AlreadyDone)
        else:
            answer = self.run(self.store.request_cancel(job))
            if known.state is State.QUEUED:
                self.known[job] = self.cancelled(job)
            else:
                self.known[job] = replace(known, cancelling=True)
            assert answer == self.run(self.store.job(job))

    @rule(job=jobs)
    def delete_job(self, job: int) -> None:
        known = self.known.get(job)
        if known is None:
            self.refused(self.store.delete_job(job), NoSuchJob)
        elif known.state is not State.DONE:
            self.refused(self.store.delete_job(job), NotDone)
        else:
            self.run(self.store.delete_job(job))
            del self.known[job]

    @rule(job=jobs)
    def delete_result(self, job: int) -> None:
        known = self.known.get(job)
        if known is None:
            self.refused(self.store.delete_result(job), NoSuchJob)
        elif known.state is not State.DONE:
            self.refused(self.store.delete_result(job), NoResultYet)
        elif known.volume is None:
            self.refused(self.store.delete_result(job), ResultGone)
        else:
            self.run(self.store.delete_result(job))
            end = replace(known.end, usage=None)  # type: ignore[type-var]
            self.known[job] = replace(known, end=end, volume=None)

    @rule()
    def reopen(self) -> None:
        self.run(self.stack.aclose())
        self.open()

    @rule(job=jobs)
    def look_at_one(self, job: int) -> None:
        known = self.known.get(job)
        if known is None:
            self.refused(self.store.job(job), NoSuchJob)
            self.refused(self.store.output(job), NoSuchJob)
        elif known.state is State.DONE and known.volume is None:
            self.refused(self.store.output(job), ResultGone)
        else:
            assert self.run(self.store.output(job)).volume == (known.volume or Volume())

    @rule(states=st.frozensets(st.sampled_from(State)), limit=st.integers(1, 4))
    def look_at_a_page(self, states: frozenset[State], limit: int) -> None:
        ids = sorted(self.known, reverse=True)
        page = self.run(listed(self.store, limit, states=states))
        assert [job.id for job in page] == [job for job in ids if self.known[job].state in states][:limit]
        page = self.run(listed(self.store, limit, with_result=True))
        assert [job.id for job in page] == [job for job in ids if self.known[job].volume is not None][:limit]

    @invariant()
    def history_is_as_known(self) -> None:
        if not hasattr(self, "store"):
            return
        found = {job.id: job for job in self.run(listed(self.store))}
        assert found.keys() == self.known.keys()
        for job, known in self.known.items():
            assert found[job].spec == known.spec.redacted()
            phase = found[job].phase
            if known.state is State.QUEUED:
                assert isinstance(phase, Queued)
            elif known.state is State.RUNNING:
                assert isinstance(phase, Running)
                assert phase.cancelling == known.cancelling
            else:
                assert phase == Done(known.end, known.volume)  # type: ignore[arg-type]
        running = sorted((job, known) for job, known in self.known.items() if known.state is State.RUNNING)
        assert [(c.job_id, c.token, c.keeper, c.spec, c.cancelling) for c in self.run(self.store.running())] == [
            (job, known.token, known.keeper, known.spec.redacted(), known.cancelling) for job, known in running
        ]

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.stack.aclose())
            self.runner.close()
            shutil.rmtree(self.path)


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
