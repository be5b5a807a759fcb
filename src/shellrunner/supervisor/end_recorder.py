"""Record how jobs ended in the history.

Owned by the supervisor. Must not know keepers: until an end is recorded, its slot keeps it.
"""

import asyncio
import logging
from dataclasses import replace
from typing import Protocol

from shellrunner.clock import now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.log import info
from shellrunner.model import Claim, End, Volume, next_attempt_at
from shellrunner.model.endings import Ending
from shellrunner.store import Work
from shellrunner.supervisor.oom_kills import OomKills
from shellrunner.supervisor.verdict import Ended, Verdict

log = logging.getLogger("shellrunner.supervisor")

_RETRY_DELAY = 1.0  # seconds


class EndObserver(Protocol):
    """Is called with each attempt's end once it is recorded."""

    def __call__(self, claim: Claim, end: End, volume: Volume, /) -> None:
        """Take note of the end; must not raise."""


class EndRecorder:
    """Writes verdicts into the store, and logs them."""

    def __init__(self, store: Work, observe: EndObserver, oom_kills: OomKills) -> None:
        """Write into `store`, then call `observe`."""
        self._store, self._observe, self._oom_kills = store, observe, oom_kills

    async def record(self, claim: Claim, verdict: Verdict) -> None:
        """Record the verdict, however long it takes."""
        if isinstance(verdict, Ended) and (end := self._explain_kill(verdict.end)) is not verdict.end:
            verdict = replace(verdict, end=end)
        while True:
            try:
                known = await self._write(claim, verdict)
                break
            except StoreUnavailable as error:
                fields = {"job": claim.job_id, "reason": error.detail, "repeats": "could not record an end"}
                log.error("could not record an end; retrying", extra=fields)  # noqa: TRY400  the reason says it all
                await asyncio.sleep(_RETRY_DELAY)
        if not known:
            log.error("claim is not in the history", extra={"job": claim.job_id, "token": claim.token})
        elif isinstance(verdict, Ended):
            end = verdict.end
            fields = {"ending": end.ending, "exit_code": end.exit_code, "signal": end.signal}
            info(log, "job ended", {"job": claim.job_id, **fields, "duration": end.duration})
            self._observe(claim, end, verdict.volume)

    def _explain_kill(self, end: End) -> End:
        """Add to an end by SIGKILL, which nobody here has sent, that the kernel was short of memory meanwhile."""
        if end.ending is not Ending.SIGNALLED or end.signal != "SIGKILL" or end.started is None:
            return end
        count = self._oom_kills.count_since(end.started)
        if not count:
            return end
        processes = "one process" if count == 1 else f"{count} processes"
        found = f"the kernel's out-of-memory killer ended {processes} of the service's control group meanwhile"
        return replace(end, detail="; ".join(filter(None, (end.detail, found))))

    async def _write(self, claim: Claim, verdict: Verdict) -> bool:
        if isinstance(verdict, Ended):
            end, volume, head = verdict.end, verdict.volume, verdict.head
            due = next_attempt_at(claim.spec, claim.attempt, end, now_ms())
            return await self._store.finish(claim.job_id, claim.token, end, volume, head, next_attempt_at=due)
        return await self._store.requeue(claim.job_id, claim.token)
