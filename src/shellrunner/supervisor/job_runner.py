"""See one job through under its keeper: start it, wait for its end, cancel it, kill a keeper that is stuck.

Owned by the supervisor. The end comes from the keeper's slot, or from `judge` once the keeper is gone. Must not know
the store, HTTP or SQL.

    run ────────> start message ──┐
    resume ─────> keeper found? ──┴─> "ended" received ──> the end in its slot
    (restart)        no │               │ connection lost
                        v               v
                        │         find the keeper again
                        v               │ it is gone
                     lock free, swept: judge ──> the end in its slot, lost, or never started
"""

import asyncio
import logging
from typing import NamedTuple

from shellrunner.config import JobDefaults
from shellrunner.keeper.protocol import Message
from shellrunner.model import Claim
from shellrunner.supervisor.confinement import Confinement, UnknownProfile
from shellrunner.supervisor.keeper_connection import KeeperConnection
from shellrunner.supervisor.keeper_pool import KeeperPool
from shellrunner.supervisor.message_protocol import KeeperGone
from shellrunner.supervisor.orphans import are_kept, kill_orphans
from shellrunner.supervisor.running_job import RunningJob
from shellrunner.supervisor.start_message import build_start_message, effective_timeout
from shellrunner.supervisor.users import NoSuchUser, UserAccounts
from shellrunner.supervisor.verdict import (
    NeverStarted,
    Verdict,
    failed_to_start,
    is_lost,
    judge,
    lost,
    may_run_on,
    reported_end,
    witnessed_end,
)

log = logging.getLogger("shellrunner.supervisor")

# Seconds past deadline and grace after which a keeper counts as stuck. A command that has just ended by itself takes
# up to three of them: its output settles, and what it left behind has a grace before it is killed.
_STUCK_TIMEOUT = 30.0
_MIN_RETRY_DELAY, _RETRY_DELAY = 0.02, 1.0  # seconds
_WITHOUT_SLOT = "the slot of a running command is gone; the job will be lost once its keeper has seen it through"


class JobOutcome(NamedTuple):
    """How a job ended, and whether its keeper can take another one."""

    keeper_is_usable: bool
    verdict: Verdict


class JobRunner:
    """Runs jobs under the keepers of a pool."""

    def __init__(self, keepers: KeeperPool, jobs: JobDefaults, confinement: Confinement) -> None:
        """Take from `jobs` what a job's own specification leaves open, and its profile from `confinement`."""
        self._keepers, self._jobs, self._confinement = keepers, jobs, confinement
        self._accounts = UserAccounts(jobs)

    async def run(self, connection: KeeperConnection, job: RunningJob) -> JobOutcome:
        """Start the job under this keeper, and wait for its end."""
        try:
            account = await self._accounts.look_up(job.claim.run_as)
            profile = job.claim.spec.profile
            sandbox = self._confinement.sandbox(profile, account) if profile else None
        except (NoSuchUser, UnknownProfile) as error:
            return JobOutcome(True, failed_to_start(str(error)))
        if job.cancel_requested:
            return JobOutcome(True, NeverStarted())  # the store records `cancelled`
        connection.send(build_start_message(job.claim, self._jobs, account, self._keepers.home, sandbox))
        job.connection = connection
        connection.observe_state(job.update)
        log.debug("job started", extra={"job": job.claim.job_id, "keeper": connection.number})
        self._watch_timeout(job)
        try:
            return await self._wait_end(connection, job)
        except KeeperGone:
            return await self._find_end(job)
        finally:
            job.finish()

    async def resume(self, job: RunningJob) -> JobOutcome:
        """Find the keeper to which an earlier server gave the job, and wait for the job's end."""
        self._watch_timeout(job)
        try:
            return await self._find_end(job)
        finally:
            job.finish()

    async def _find_end(self, job: RunningJob) -> JobOutcome:
        """Find the keeper of a job whose connection was lost, as often as it is lost; judge the job if it is gone."""
        pause = _MIN_RETRY_DELAY
        while True:
            if job.connection:
                self._keepers.disconnect(job.connection)
            job.connection = connection = await self._keepers.find(job.claim.keeper)
            if connection is None:
                return await self._judge(job)
            try:
                return await self._ask_again(connection, job)
            except KeeperGone:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY_DELAY)

    async def _ask_again(self, connection: KeeperConnection, job: RunningJob) -> JobOutcome:
        claim = job.claim
        if job.cancel_requested:
            job.cancel_sent = False
            self.cancel(job)
        hello = await connection.hello
        if (hello["job"], hello["token"]) == (claim.job_id, claim.token):
            connection.observe_state(job.update)
            return await self._wait_end(connection, job)
        # It has no job, or another one: this one's end is in its slot, or is judged once the keeper is gone.
        record = connection.slot.find(claim.job_id, claim.token)
        ended = witnessed_end(connection.slot, record) if record and record.end else None
        connection.close()
        return JobOutcome(False, ended) if ended else await self._judge(job)

    def cancel(self, job: RunningJob) -> None:
        """Have the keeper end the command, once; a job that is not started yet will not be."""
        job.cancel_requested = True
        if job.connection and not job.cancel_sent:
            job.cancel_sent = True
            message = {"do": "cancel", "job": job.claim.job_id, "token": job.claim.token}
            job.connection.send({**message, "kill_only": True} if job.kill_only else message)
            self._watch(job, 0.0)

    def has_missed_end(self, job: RunningJob) -> bool:
        """Return whether the job's slot has its end, which the keeper has not reported, or not yet."""
        connection = job.connection
        if connection is None or connection.closed.done() or job.is_over:
            return False
        try:
            record = connection.slot.find(job.claim.job_id, job.claim.token)
        except OSError:
            return False
        return record is not None and record.end is not None

    def end_recorded(self, job: RunningJob) -> None:
        """Send the keeper word that the history has the end which the slot lacks, so that it need not keep it."""
        if job.end_is_unwritten and job.connection:
            job.connection.send({"do": "recorded", "job": job.claim.job_id, "token": job.claim.token})

    async def _wait_end(self, connection: KeeperConnection, job: RunningJob) -> JobOutcome:
        claim = job.claim
        try:
            message = await connection.wait_ended(claim.job_id, claim.token)
            if message["say"] == "refused":
                log.error("a keeper refused a job; it is queued again", extra={"job": claim.job_id})
                connection.close()
                return JobOutcome(False, NeverStarted())
            return JobOutcome(not message["retiring"], self._read_end(connection, job, message))
        except KeeperGone:
            raise
        except Exception:  # the border of one job: whatever is wrong with it, the others go on
            log.exception("could not follow a job to its end", extra={"job": claim.job_id})
            connection.close()
        return await self._judge(job)

    def _read_end(self, connection: KeeperConnection, job: RunningJob, message: Message) -> Verdict:
        claim = job.claim
        if end := message.get("end"):
            log.warning("a keeper could not write an end into its slot", extra={"job": claim.job_id})
            job.end_is_unwritten = True
            return reported_end(connection.slot, claim, end)
        return witnessed_end(connection.slot, connection.slot.find(claim.job_id, claim.token))

    async def _judge(self, job: RunningJob) -> JobOutcome:
        """Wait until the job's keeper is gone, then judge the job by what the keeper left."""
        claim, is_logged = job.claim, False
        while True:
            try:
                evidence = await self._keepers.wait_died(claim.keeper)
                verdict, marks = await asyncio.to_thread(self._examine, claim, evidence)
                if is_lost(verdict) and await self._is_kept(job, marks):
                    if not is_logged:
                        log.warning(_WITHOUT_SLOT, extra={"job": claim.job_id, "keeper": claim.keeper})
                        is_logged = True
                    await asyncio.sleep(_RETRY_DELAY)
                    continue
                killed = await asyncio.to_thread(kill_orphans, marks) if may_run_on(verdict) and marks else []
            except OSError as error:  # no descriptors left, for example: no reason to judge without looking
                fields = {"job": claim.job_id, "reason": repr(error), "repeats": "could not judge a job"}
                log.error("could not judge a job; retrying", extra=fields)  # noqa: TRY400  the reason says it all
                await asyncio.sleep(_RETRY_DELAY)
                continue
            if is_lost(verdict):
                log.warning("job lost", extra={"job": claim.job_id, "evidence": evidence, "orphans": killed})
            return JobOutcome(False, verdict)

    async def _is_kept(self, job: RunningJob, marks: list[str]) -> bool:
        """Return whether the command runs under a keeper without its slot, and is not to be cancelled."""
        if job.cancel_requested or not marks:
            return False
        return await asyncio.to_thread(are_kept, marks, str(self._keepers.state_dir))

    def _examine(self, claim: Claim, evidence: str) -> tuple[Verdict, list[str]]:
        """Return the verdict, and the marks of processes to be killed if it is `lost`. Blocking."""
        if reason := self._keepers.foreign_slot(claim.keeper):
            # The slot says nothing about this claim, and the command may run under a keeper that is alive.
            return lost(f"{evidence}; {reason}"), []
        return judge(self._keepers.state, claim, evidence), self._keepers.marks(
            claim.keeper, claim.job_id, claim.token
        )

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
