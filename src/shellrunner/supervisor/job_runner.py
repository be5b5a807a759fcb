"""See one job through under its keeper: start it, wait for its end, cancel it, kill a keeper that is stuck.

Owned by the supervisor. The end comes from the keeper's slot, or from `judge` once the keeper is gone. Must not know
the store, HTTP or SQL.

    run ────────> start message ──┐
    resume ─────> keeper found? ──┴─> "ended" received ──> the end in its slot
    (restart)        no │               │ connection lost
                        v               v
                     lock free, swept: judge ──> the end in its slot, lost, or never started
"""

import asyncio
import logging
from typing import NamedTuple

from shellrunner.config import JobDefaults
from shellrunner.model import Claim
from shellrunner.supervisor.keeper_connection import KeeperConnection
from shellrunner.supervisor.keeper_pool import KeeperPool
from shellrunner.supervisor.message_protocol import KeeperGone
from shellrunner.supervisor.orphans import kill_orphans
from shellrunner.supervisor.running_job import RunningJob
from shellrunner.supervisor.start_message import build_start_message, effective_timeout
from shellrunner.supervisor.users import NoSuchUser, UserAccounts
from shellrunner.supervisor.verdict import NeverStarted, Verdict, failed_to_start, is_lost, judge, witnessed_end

log = logging.getLogger("shellrunner.supervisor")

_STUCK_TIMEOUT = 30.0  # seconds past deadline and grace after which a keeper counts as stuck
_RETRY_DELAY = 1.0  # seconds


class JobOutcome(NamedTuple):
    """How a job ended, and whether its keeper can take another one."""

    keeper_is_usable: bool
    verdict: Verdict


class JobRunner:
    """Runs jobs under the keepers of a pool."""

    def __init__(self, keepers: KeeperPool, jobs: JobDefaults) -> None:
        """Take from `jobs` what a job's own specification leaves open."""
        self._keepers, self._jobs = keepers, jobs
        self._accounts = UserAccounts(jobs)

    async def run(self, connection: KeeperConnection, job: RunningJob) -> JobOutcome:
        """Start the job under this keeper, and wait for its end."""
        try:
            account = await self._accounts.look_up(job.claim.run_as)
        except NoSuchUser as error:
            return JobOutcome(True, failed_to_start(str(error)))
        if job.cancel_requested:
            return JobOutcome(True, NeverStarted())  # the store records `cancelled`
        connection.send(build_start_message(job.claim, self._jobs, account))
        job.connection = connection
        log.debug("job started", extra={"job": job.claim.job_id, "keeper": connection.number})
        self._watch_timeout(job)
        try:
            return await self._wait_end(connection, job)
        finally:
            job.finish()

    async def resume(self, job: RunningJob) -> JobOutcome:
        """Find the keeper to which an earlier server gave the job, and wait for the job's end."""
        claim = job.claim
        job.connection = connection = await self._keepers.find(claim.keeper)
        try:
            if connection is None:
                return await self._judge(claim)
            if job.cancel_requested:
                self.cancel(job)
            else:
                self._watch_timeout(job)
            try:
                hello = await connection.hello
            except KeeperGone:
                return await self._judge(claim)
            if (hello["job"], hello["token"]) == (claim.job_id, claim.token):
                return await self._wait_end(connection, job)
            # It has no job, or another one: this one's end is in its slot, or is judged once the keeper is gone.
            record = connection.slot.find(claim.job_id, claim.token)
            if record and record.end:
                return JobOutcome(False, witnessed_end(connection.slot, record))
            connection.close()
            return await self._judge(claim)
        finally:
            job.finish()

    def cancel(self, job: RunningJob) -> None:
        """Have the keeper end the command, once; a job that is not started yet will not be."""
        job.cancel_requested = True
        if job.connection and not job.cancel_sent:
            job.cancel_sent = True
            job.connection.send({"do": "cancel", "job": job.claim.job_id, "token": job.claim.token})
            self._watch(job, 0.0)

    async def _wait_end(self, connection: KeeperConnection, job: RunningJob) -> JobOutcome:
        claim = job.claim
        try:
            retiring = await connection.wait_ended()
            record = connection.slot.find(claim.job_id, claim.token)
            return JobOutcome(not retiring, witnessed_end(connection.slot, record))
        except KeeperGone:
            pass
        except Exception:  # the border of one job: whatever is wrong with it, the others go on
            log.exception("could not follow a job to its end", extra={"job": claim.job_id})
            connection.close()
        return await self._judge(claim)

    async def _judge(self, claim: Claim) -> JobOutcome:
        """Wait until the job's keeper is gone, then judge the job by what the keeper left."""
        while True:
            try:
                evidence = await self._keepers.wait_died(claim.keeper)
                verdict = judge(self._keepers.state, claim, evidence)
                killed = await asyncio.to_thread(kill_orphans, claim.job_id, claim.token) if is_lost(verdict) else []
            except OSError as error:  # no descriptors left, for example: no reason to judge without looking
                fields = {"job": claim.job_id, "reason": repr(error), "repeats": "could not judge a job"}
                log.error("could not judge a job; retrying", extra=fields)  # noqa: TRY400  the reason says it all
                await asyncio.sleep(_RETRY_DELAY)
                continue
            if is_lost(verdict):
                log.warning("job lost", extra={"job": claim.job_id, "evidence": evidence, "orphans": killed})
            return JobOutcome(False, verdict)

    def _watch_timeout(self, job: RunningJob) -> None:
        """Watch over the timeout, which the keeper itself enforces (it is in the start message)."""
        timeout = effective_timeout(job.claim.spec, self._jobs)
        if timeout is not None:
            self._watch(job, timeout)

    def _watch(self, job: RunningJob, deadline: float) -> None:
        """Kill the keeper if it has not ended its command long after `deadline` (seconds from now)."""
        job.set_watchdog(deadline + self._jobs.kill_grace + _STUCK_TIMEOUT, self._kill_keeper)

    def _kill_keeper(self, job: RunningJob) -> None:
        log.error("keeper is stuck; killing it", extra={"job": job.claim.job_id, "keeper": job.claim.keeper})
        try:
            self._keepers.kill(job.claim.keeper)
        except OSError:
            job.set_watchdog(_RETRY_DELAY, self._kill_keeper)
