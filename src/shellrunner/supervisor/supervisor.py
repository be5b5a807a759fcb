"""Decide which job runs when: claim jobs for idle keepers, adopt what runs after a restart, pass on cancel requests.

Owned by the composition root. For each job: a permit (of `max_running`), a claim, the run under a keeper, the record
of its end. Must not know HTTP, SQL or processes. A bug here ends the server loudly: systemd starts it again, and jobs
are not harmed.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from shellrunner.config import JobDefaults
from shellrunner.errors import ShellrunnerError, StoreUnavailable
from shellrunner.live_usage import MeasuredJob
from shellrunner.model import Claim
from shellrunner.store import Work
from shellrunner.store.values import SlotClaim
from shellrunner.supervisor.concurrency import ConcurrencyLimit
from shellrunner.supervisor.confinement import Confinement
from shellrunner.supervisor.end_recorder import EndObserver, EndRecorder
from shellrunner.supervisor.job_runner import JobRunner
from shellrunner.supervisor.keeper_connection import KeeperConnection
from shellrunner.supervisor.keeper_pool import KeeperPool
from shellrunner.supervisor.message_protocol import KeeperGone
from shellrunner.supervisor.oom_kills import OomKills, own_memory_events
from shellrunner.supervisor.running_job import RunningJob
from shellrunner.supervisor.unknown_keepers import UnknownKeepers
from shellrunner.supervisor.verdict import Verdict, new_claim_token

log = logging.getLogger("shellrunner.supervisor")

IDLE_KEEPERS = 8  # that wait for a claim: as many jobs can start with one commit
SPARE_KEEPERS = 2  # beyond `max_running`: they take over from those that take no more jobs, until others are there
_RETRY_DELAY = 1.0  # seconds
_LOOK_INTERVAL = 15.0  # seconds between looks at the slots of running jobs


class _FoundRunning(NamedTuple):
    """What runs by the history; keepers that live and that it does not know; slots with ends of lost jobs."""

    claims: Sequence[Claim]
    unknown: list[int]
    reporting: set[int]


class Supervisor:
    """Runs until it is cancelled; the commands that run then go on under their keepers."""

    def __init__(
        self,
        store: Work,
        keepers: KeeperPool,
        jobs: JobDefaults,
        confinement: Confinement,
        *,
        max_running: int,
        observe: EndObserver,
    ) -> None:
        """Run the store's jobs under these keepers, at most `max_running` at once; `jobs` has the defaults.

        With a `max_running` of 0 only those are seen to their end that run already, from an earlier start.
        """
        self._store, self._keepers, self._max_running = store, keepers, max_running
        self._runner = JobRunner(keepers, jobs, confinement)
        self._oom_kills = OomKills(own_memory_events())
        self._ends = EndRecorder(store, observe, self._oom_kills, self._crash)
        self.unknown_keepers = UnknownKeepers(keepers, self._report_ends)
        self._limit = ConcurrencyLimit(max_running)
        self._running_jobs: dict[int, RunningJob] = {}
        self._earlier_attempts: dict[str, RunningJob] = {}  # by claim token: lost, and running on beside the last one
        self._workers = 0
        self._idle: set[asyncio.Task[None]] = set()  # workers that wait for a claim
        self._changed = asyncio.Event()
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._draining = False
        self._spawn_failure: str | None = None

    @property
    def running_count(self) -> int:
        """Number of jobs that run, or are about to, or whose end is not recorded yet."""
        return len(self._running_jobs)

    @property
    def idle_count(self) -> int:
        """Number of keepers that wait for a job."""
        return len(self._idle)

    @property
    def unknown_count(self) -> int:
        """Number of keepers that run a command which the history does not know."""
        return len(self.unknown_keepers)

    @property
    def spawn_failure(self) -> str | None:
        """Why the last keeper could not be started, while none is left for the next job."""
        return None if self._idle else self._spawn_failure

    def running_jobs(self) -> Iterator[MeasuredJob]:
        """Yield the running jobs whose keepers are known."""
        for job in self._running_jobs.values():
            if job.connection and (pid := job.connection.pid):
                yield MeasuredJob(job.claim.job_id, job.claim.token, job.claim.claimed, pid)

    def running_job(self, job_id: int) -> RunningJob | None:
        """Return the job if it runs or is about to."""
        return self._running_jobs.get(job_id)

    async def run(self) -> None:
        """Adopt the jobs that run already, then run the queued ones."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._raise_bug(), name="bugs in callbacks")
            await self._adopt_running(tasks)
            tasks.create_task(self._watch_cancel_requests(), name="cancel requests")
            tasks.create_task(self._keepers.remove_abandoned(), name="abandoned keepers")
            tasks.create_task(self._watch_missed_ends(), name="missed ends")
            tasks.create_task(self._oom_kills.watch(), name="out-of-memory kills")
            tasks.create_task(self._fill_pool(tasks), name="keeper pool")

    async def _raise_bug(self) -> None:
        await self._bug

    def _crash(self, bug: BaseException) -> None:
        """Let `run` raise what was raised in a callback of the event loop."""
        if not self._bug.done():
            self._bug.set_exception(bug)

    async def drain(self, *, cancel: bool) -> None:
        """Claim no more jobs, and wait until none runs; with `cancel`, cancel those that do."""
        self._draining = True
        for task in self._idle:
            task.cancel()
        for job in list(self._running_jobs.values()) if cancel else ():
            with suppress(ShellrunnerError):  # done meanwhile, or the store is unavailable: cancelled all the same
                await self._store.request_cancel(job.claim.job_id)
            self._runner.cancel(job)
        while self._running_jobs:
            self._changed.clear()
            await self._changed.wait()

    # Queued jobs -----------------------------------------------------------------------------------------------

    async def _fill_pool(self, tasks: asyncio.TaskGroup) -> None:
        """Keep a few idle keepers ahead of the running jobs."""
        while not self._draining:
            self._changed.clear()
            if self._needs_worker:
                await self._add_worker(tasks)
            else:
                self._spawn_failure = None  # no further keeper is needed
                await self._changed.wait()

    @property
    def _needs_worker(self) -> bool:
        wanted = self._max_running + SPARE_KEEPERS if self._max_running else 0
        return len(self._idle) < IDLE_KEEPERS and self._workers < wanted

    async def _add_worker(self, tasks: asyncio.TaskGroup) -> None:
        try:
            connection = await self._keepers.spawn()
        except (KeeperGone, OSError) as error:
            fields = {"reason": repr(error), "repeats": "could not start a keeper"}
            log.error("could not start a keeper; retrying", extra=fields)  # noqa: TRY400  the reason says it all
            self._spawn_failure = fields["reason"]
            await asyncio.sleep(_RETRY_DELAY)
            return
        self._spawn_failure = None
        self._workers += 1
        worker = tasks.create_task(self._worker(connection), name=f"keeper {connection.number}")
        self._idle.add(worker)

    async def _worker(self, connection: KeeperConnection) -> None:
        """Give one keeper one job after another, until it takes no more."""
        me = asyncio.current_task()
        assert me is not None  # noqa: S101  this is a coroutine
        usable, recorded = True, None
        try:
            async with self._limit:
                while usable and not self._draining:
                    job = await self._claim(me, connection)
                    # A slot has two records: space for the end of one job and the start of the next, not for a third.
                    if recorded:
                        await recorded
                    usable, verdict = await self._runner.run(connection, job)
                    connection = job.connection or connection  # it may have been found again meanwhile
                    recorded = self._record(job, verdict)
                    if job.end_is_unwritten:  # the next job would fail at once, and all that are queued after it
                        break
        finally:
            self._workers -= 1
            self._set_busy(me)
        if recorded:
            await recorded
        await self._keepers.release(connection, usable=usable)

    async def _claim(self, worker: asyncio.Task[None], connection: KeeperConnection) -> RunningJob:
        self._idle.add(worker)
        claim = await self._store.claim(connection.number, new_claim_token())
        job = RunningJob(claim, self._store.command_changed)
        self._add(job)
        self._set_busy(worker)
        return job

    def _add(self, job: RunningJob) -> None:
        earlier = self._running_jobs.get(job.claim.job_id)
        if earlier is not None:
            self._earlier_attempts[earlier.claim.token] = earlier
        self._running_jobs[job.claim.job_id] = job

    def _set_busy(self, worker: asyncio.Task[None]) -> None:
        """Note that this worker waits for no claim; wake up the pool if it needs another one."""
        self._idle.discard(worker)
        if self._needs_worker:
            self._changed.set()

    def _record(self, job: RunningJob, verdict: Verdict) -> asyncio.Future[None]:
        return self._ends.record(job.claim, verdict, partial(self._recorded, job))

    def _recorded(self, job: RunningJob) -> None:
        self._runner.end_recorded(job)
        self._earlier_attempts.pop(job.claim.token, None)
        if self._running_jobs.get(job.claim.job_id) is job:  # else its next attempt has begun
            del self._running_jobs[job.claim.job_id]
        if self._draining:
            self._changed.set()

    # Cancel requests -------------------------------------------------------------------------------------------

    async def _watch_cancel_requests(self) -> None:
        with self._store.watch_cancel_requests() as subscription:
            while True:
                try:
                    for claim in await self._store.cancelling():
                        job = self._earlier_attempts.get(claim.token) or self._running_jobs.get(claim.job_id)
                        if job and job.claim.token == claim.token:
                            job.kill_only = claim.kill_only  # who cancels it may have decided that
                            self._runner.cancel(job)
                    await subscription.wait()
                except StoreUnavailable:
                    await asyncio.sleep(_RETRY_DELAY)

    # Missed ends -----------------------------------------------------------------------------------------------

    async def _watch_missed_ends(self) -> None:
        """Look from time to time whether a slot has an end that was not received, and ask its keeper again."""
        suspected: set[RunningJob] = set()
        while True:
            await asyncio.sleep(_LOOK_INTERVAL)
            ended = {job for job in self._running_jobs.values() if self._runner.has_missed_end(job)}
            for job in ended & suspected:  # seen twice, so the message is not merely on its way
                log.warning("the end of a job was not received", extra={"job": job.claim.job_id})
                if job.connection:
                    job.connection.close()
            suspected = ended

    # After a restart -------------------------------------------------------------------------------------------

    async def _adopt_running(self, tasks: asyncio.TaskGroup) -> None:
        """Adopt every job that the history calls running, whether its keeper is still there or not."""
        claims, unknown, reporting = await self._find_running()
        for number in unknown:
            tasks.create_task(self.unknown_keepers.watch(number), name=f"slot {number}")
        for number in reporting:
            tasks.create_task(self._report_and_remove(number), name=f"slot {number}")
        self._limit = ConcurrencyLimit(self._max_running, len(claims))
        for claim in claims:
            job = RunningJob(claim, self._store.command_changed, is_adopted=True)
            self._add(job)
            tasks.create_task(self._adopt(job), name=f"adopt {claim.job_id}")
        if claims:
            log.info("jobs adopted", extra={"jobs": [claim.job_id for claim in claims]})

    async def _find_running(self) -> "_FoundRunning":
        """Return what the history calls running, and the numbers of other keepers that matter.

        Where the slots cannot be looked at (no descriptors left, for example), nothing is judged or started until
        they can be.
        """
        while True:
            try:
                claims = await self._store.running()
                in_use = {claim.keeper for claim in claims}
                ended = await self._store.lost_claims(partial(self._gone_claims, in_use))
                reporting = {claim.keeper for claim in ended}
                unknown = self._keepers.reclaim_slots(in_use | reporting, held=bool(self._store.held))
            except (OSError, StoreUnavailable) as error:
                self._spawn_failure = f"could not look at the slots: {error!r}"
                fields = {"reason": repr(error), "repeats": "could not look at the slots"}
                log.error("could not look at the slots; retrying", extra=fields)  # noqa: TRY400  the reason says it all
                await asyncio.sleep(_RETRY_DELAY)
            else:
                self._spawn_failure = None
                return _FoundRunning(claims, unknown, reporting)

    def _gone_claims(self, in_use: set[int]) -> Sequence[SlotClaim]:
        keepers = self._keepers
        return keepers.ended_claims(
            each for each in keepers.numbers() if each not in in_use and keepers.is_gone(each)
        )

    async def _report_and_remove(self, number: int) -> None:
        await self._report_ends(number)
        await self._keepers.remove_slot_when_gone(number)

    async def _report_ends(self, number: int) -> bool:
        """Record the ends in a slot whose jobs other hosts have declared lost; return whether there are any."""
        while True:
            try:
                claims = await self._store.lost_claims(lambda: self._keepers.ended_claims([number]))
                break
            except (OSError, StoreUnavailable) as error:
                fields = {"reason": repr(error), "repeats": "could not report ends of lost jobs"}
                log.error("could not report ends of lost jobs; retrying", extra=fields)  # noqa: TRY400
                await asyncio.sleep(_RETRY_DELAY)
        for claim in claims:
            _, verdict = await self._runner.resume(RunningJob(claim, self._store.command_changed, is_adopted=True))
            await self._ends.record(claim, verdict, _do_nothing)
            log.info("the end of a lost job was found", extra={"job": claim.job_id, "attempt": claim.attempt})
        return bool(claims)

    async def _adopt(self, job: RunningJob) -> None:
        number = job.claim.keeper
        usable, verdict = await self._runner.resume(job)
        self._limit.release()
        await self._record(job, verdict)
        if any(other.claim.keeper == number for other in self._running_jobs.values()):
            # The other job is still to be judged by the same slot: its adoption removes it.
            if job.connection:
                job.connection.close()
        elif job.connection:
            await self._keepers.release(job.connection, usable=usable)
        elif self._keepers.is_gone(number):
            await self._keepers.remove_slot_when_gone(number)


def _do_nothing() -> None:
    """No job of this server has ended."""
