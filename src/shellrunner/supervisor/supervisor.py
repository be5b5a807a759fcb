"""Decide which command runs when, hand it to a keeper, and record how it ended.

A place (of `max_running`), then a claim, then a keeper; what is recorded is what the keeper's slot says. Speaks to
the store and to keepers; must not know HTTP or SQL. A bug in here ends the process loudly: systemd starts it
again, and no job notices.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from shellrunner.config import JobDefaults
from shellrunner.errors import ShellrunnerError, StoreUnavailable
from shellrunner.model import Claim, End, Volume, next_attempt_at
from shellrunner.store import Work
from shellrunner.supervisor.concurrency import ConcurrencyLimit
from shellrunner.supervisor.keeper_connection import KeeperConnection, KeeperGone
from shellrunner.supervisor.keeper_pool import KeeperPool
from shellrunner.supervisor.orphans import end_strays
from shellrunner.supervisor.running_job import RunningJob
from shellrunner.supervisor.start_message import start
from shellrunner.supervisor.users import NoSuchUser, UserAccounts
from shellrunner.supervisor.verdict import Ended, NeverStarted, Verdict, is_lost, judge, new_token, refused, witnessed

log = logging.getLogger("shellrunner.supervisor")

_SPARE = 8  # keepers that wait for a claim: so many jobs can start with one commit, and a finish idles none
_OVERDUE = 30.0  # seconds past deadline and grace after which a keeper is taken for stuck
_AGAIN = 1.0  # seconds between attempts at what failed: a history that takes nothing, a keeper that is not made

Observe = Callable[[Claim, End, Volume], None]  # hears of each attempt's end once it is recorded


class Supervisor:
    """Runs until it is cancelled; whatever runs then goes on under its keeper."""

    def __init__(
        self, store: Work, keepers: KeeperPool, jobs: JobDefaults, max_running: int, observe: Observe
    ) -> None:
        """Run the store's jobs on these keepers, at most `max_running` at once, as `jobs` says."""
        self._store, self._keepers, self._jobs, self._max_running = store, keepers, jobs, max_running
        self._observe = observe
        self._accounts = UserAccounts(jobs)
        self._places = ConcurrencyLimit(max_running)
        self._kept: dict[int, RunningJob] = {}
        self._workers = 0
        self._idle: set[asyncio.Task[None]] = set()  # workers that wait for a claim
        self._changed = asyncio.Event()
        self._stopping = False

    @property
    def running(self) -> int:
        """How many commands run, or are about to."""
        return len(self._kept)

    def kept(self, job_id: int) -> RunningJob | None:
        """Return who has this job, if it runs or is about to."""
        return self._kept.get(job_id)

    @property
    def idle(self) -> int:
        """How many keepers wait for a command."""
        return len(self._idle)

    async def run(self) -> None:
        """Adopt what runs already, then run what is queued."""
        async with asyncio.TaskGroup() as tasks:
            await self._adopt_all(tasks)
            tasks.create_task(self._hear_wishes(), name="wishes")
            tasks.create_task(self._fill_pool(tasks), name="staff")

    async def drain(self, *, cancel: bool) -> None:
        """Claim no more, and wait until nothing runs; with `cancel`, ask for the end of all that does."""
        self._stopping = True
        for task in self._idle:
            task.cancel()
        for kept in list(self._kept.values()) if cancel else ():
            with suppress(ShellrunnerError):  # done meanwhile, or not to be written down: it is told all the same
                await self._store.request_cancel(kept.claim.job_id)
            self._cancel(kept)
        while self._kept:
            self._changed.clear()
            await self._changed.wait()

    # New jobs --------------------------------------------------------------------------------------------------

    async def _fill_pool(self, tasks: asyncio.TaskGroup) -> None:
        """Have a few keepers more than are needed, as long as there may be places for them."""
        while not self._stopping:
            self._changed.clear()
            if len(self._idle) < _SPARE and self._workers < self._max_running + _SPARE:
                await self._add_worker(tasks)
            else:
                await self._changed.wait()

    async def _add_worker(self, tasks: asyncio.TaskGroup) -> None:
        try:
            link = await self._keepers.make()
        except (KeeperGone, OSError) as error:
            log.error("no keeper could be made", extra={"reason": repr(error)})  # noqa: TRY400  it says it all
            await asyncio.sleep(_AGAIN)
            return
        self._workers += 1
        worker = tasks.create_task(self._worker(link, tasks), name=f"keeper {link.number}")
        self._idle.add(worker)

    async def _worker(self, link: KeeperConnection, tasks: asyncio.TaskGroup) -> None:
        """Give one keeper one job after another, for as long as it takes them."""
        me = asyncio.current_task()
        assert me is not None  # noqa: S101  this is a coroutine
        usable, recording = True, None
        try:
            while usable and not self._stopping:
                self._idle.add(me)
                await self._places.take()
                kept = await self._claim(link)
                self._idle.discard(me)
                self._changed.set()
                # The slot has room for the end of one job and the start of the next, not for a third.
                if recording:
                    await recording
                usable, verdict = await self._keep(link, kept)
                self._places.release()
                recording = tasks.create_task(self._record(kept, verdict), name=f"record {kept.claim.job_id}")
        finally:
            self._idle.discard(me)
            self._workers -= 1
            self._changed.set()
        if recording:
            await recording
        await self._keepers.dismiss(link, usable=usable)

    async def _claim(self, link: KeeperConnection) -> RunningJob:
        claim = await self._store.claim(link.number, new_token())
        kept = self._kept[claim.job_id] = RunningJob(claim)
        return kept

    async def _keep(self, link: KeeperConnection, kept: RunningJob) -> tuple[bool, Verdict]:
        """Have the command run; return whether the keeper can take another, and how it ended."""
        try:
            account = await self._accounts.of(kept.claim.run_as)
        except NoSuchUser as error:
            return True, refused(str(error))
        if kept.cancelling:
            return True, NeverStarted()  # the store makes `cancelled` of it, and nothing was ever started
        link.send(start(kept.claim, self._jobs, account))
        kept.link = link
        log.debug("job started", extra={"job": kept.claim.job_id, "keeper": link.number})
        timeout = kept.claim.spec.timeout or self._jobs.timeout
        if timeout is not None:
            self._watch_over(kept, timeout)
        try:
            return await self._see_through(link, kept)
        finally:
            kept.watch_no_more()

    async def _see_through(self, link: KeeperConnection, kept: RunningJob) -> tuple[bool, Verdict]:
        claim = kept.claim
        try:
            retiring = await link.ended()
            return not retiring, witnessed(link.slot, link.slot.find(claim.job_id, claim.token))
        except KeeperGone:
            pass
        except Exception:  # the border of one job: whatever is wrong with it, its neighbours go on
            log.exception("a job could not be seen through", extra={"job": claim.job_id})
            link.close()
        return False, await self._judge(claim)

    # Ends ------------------------------------------------------------------------------------------------------

    async def _judge(self, claim: Claim) -> Verdict:
        """Judge a job whose keeper is gone, or wait until it is."""
        while True:
            try:
                evidence = await self._keepers.how_it_ended(claim.keeper)
                verdict = judge(self._keepers.state, claim, evidence)
                strays = await asyncio.to_thread(end_strays, claim.job_id, claim.token) if is_lost(verdict) else []
            except OSError as error:  # no descriptors left, say: no reason to judge without looking
                log.error("a job cannot be judged yet", extra={"job": claim.job_id, "reason": repr(error)})  # noqa: TRY400
                await asyncio.sleep(_AGAIN)
                continue
            if is_lost(verdict):
                log.warning("job lost", extra={"job": claim.job_id, "evidence": evidence, "strays": strays})
            return verdict

    async def _record(self, kept: RunningJob, verdict: Verdict) -> None:
        """Write the end into the history, however long it takes: until then the slot keeps it."""
        claim = kept.claim
        while True:
            try:
                known = await self._write(claim, verdict)
                break
            except StoreUnavailable as error:
                words = {"job": claim.job_id, "reason": error.detail}
                log.error("an end cannot be recorded yet", extra=words)  # noqa: TRY400  the reason says it all
                await asyncio.sleep(_AGAIN)
        if not known:
            log.error("the history does not know this claim", extra={"job": claim.job_id, "token": claim.token})
        elif isinstance(verdict, Ended):
            end = verdict.end
            words = {"ending": end.ending, "exit_code": end.exit_code, "signal": end.signal}
            log.info("job ended", extra={"job": claim.job_id, **words, "duration": end.duration})
            self._observe(claim, end, verdict.volume)
        if self._kept.get(claim.job_id) is kept:  # else its next attempt has begun
            del self._kept[claim.job_id]
        self._changed.set()

    async def _write(self, claim: Claim, verdict: Verdict) -> bool:
        if isinstance(verdict, Ended):
            end, volume, head = verdict.end, verdict.volume, verdict.head
            due = next_attempt_at(claim.spec, claim.attempt, end)
            return await self._store.finish(claim.job_id, claim.token, end, volume, head, next_attempt_at=due)
        return await self._store.requeue(claim.job_id, claim.token)

    # Wishes and deadlines --------------------------------------------------------------------------------------

    async def _hear_wishes(self) -> None:
        with self._store.watch_cancel_requests() as bell:
            while True:
                try:
                    for claim in await self._store.cancelling():
                        kept = self._kept.get(claim.job_id)
                        if kept and kept.claim.token == claim.token:
                            self._cancel(kept)
                    await bell.wait()
                except StoreUnavailable:
                    await asyncio.sleep(_AGAIN)

    def _cancel(self, kept: RunningJob) -> None:
        kept.cancelling = True
        if kept.link and not kept.told:
            kept.told = True
            kept.link.send({"do": "cancel", "job": kept.claim.job_id, "token": kept.claim.token})
            self._watch_over(kept, 0.0)

    def _watch_over(self, kept: RunningJob, deadline: float) -> None:
        """Kill the keeper if it has not ended its command long after `deadline` (seconds from now)."""
        kept.watch(deadline + self._jobs.kill_grace + _OVERDUE, self._give_up_on)

    def _give_up_on(self, kept: RunningJob) -> None:
        log.error("a keeper is stuck; killing it", extra={"job": kept.claim.job_id, "keeper": kept.claim.keeper})
        try:
            self._keepers.kill(kept.claim.keeper)
        except OSError:
            kept.watch(_AGAIN, self._give_up_on)

    # After a restart -------------------------------------------------------------------------------------------

    async def _adopt_all(self, tasks: asyncio.TaskGroup) -> None:
        """Take up every job that the history calls running, whatever became of it."""
        running = await self._store.running()
        for number in self._keepers.tidy({claim.keeper for claim in running}):
            tasks.create_task(self._keepers.bury_when_gone(number), name=f"bury {number}")
        self._places = ConcurrencyLimit(self._max_running, len(running))
        for claim in running:
            kept = self._kept[claim.job_id] = RunningJob(claim)
            tasks.create_task(self._adopt(kept), name=f"adopt {claim.job_id}")
        if running:
            log.info("jobs taken up", extra={"jobs": [claim.job_id for claim in running]})

    async def _adopt(self, kept: RunningJob) -> None:
        number = kept.claim.keeper
        usable, verdict = await self._find_out(kept)
        kept.watch_no_more()
        self._places.release()
        await self._record(kept, verdict)
        if any(other.claim.keeper == number for other in self._kept.values()):
            # That one is still to be judged by the same slot: whoever has it buries the keeper.
            if kept.link:
                kept.link.close()
        elif kept.link:
            await self._keepers.dismiss(kept.link, usable=usable)
        elif self._keepers.is_gone(number):
            self._keepers.bury(number)

    async def _find_out(self, kept: RunningJob) -> tuple[bool, Verdict]:
        claim = kept.claim
        kept.link = link = await self._keepers.find(claim.keeper)
        if link is None:
            return False, await self._judge(claim)
        if kept.cancelling:
            self._cancel(kept)
        elif (timeout := claim.spec.timeout or self._jobs.timeout) is not None:
            self._watch_over(kept, timeout)
        try:
            hello = await link.hello
        except KeeperGone:
            return False, await self._judge(claim)
        if (hello["job"], hello["token"]) == (claim.job_id, claim.token):
            return await self._see_through(link, kept)
        # It keeps nothing, or another: what became of this one is in its slot, or certain once it is gone.
        record = link.slot.find(claim.job_id, claim.token)
        if record and record.end:
            return False, witnessed(link.slot, record)
        link.close()
        return False, await self._judge(claim)
