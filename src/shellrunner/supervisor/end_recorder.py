"""Record how jobs ended in the history.

Owned by the supervisor. Must not know keepers: until an end is recorded, its slot keeps it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
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


@dataclass(frozen=True, slots=True)
class _Record:
    """A verdict that is to be recorded, and what follows."""

    claim: Claim
    verdict: Verdict
    on_recorded: Callable[[], None]
    done: asyncio.Future[None]


class EndRecorder:
    """Writes verdicts into the store, and logs them.

    By callbacks: a task for each end would cost as much as its statement, and only one that fails has to wait.
    """

    def __init__(
        self, store: Work, observe: EndObserver, oom_kills: OomKills, on_bug: Callable[[BaseException], None]
    ) -> None:
        """Write into `store`, then call `observe`. `on_bug` is called with what a callback raises."""
        self._store, self._observe, self._oom_kills, self._on_bug = store, observe, oom_kills, on_bug

    def record(self, claim: Claim, verdict: Verdict, on_recorded: Callable[[], None]) -> asyncio.Future[None]:
        """Record the verdict, however long it takes, and call `on_recorded`; then the future is done.

        If the future is cancelled, it is recorded all the same.
        """
        if isinstance(verdict, Ended) and (end := self._explain_kill(verdict.end)) is not verdict.end:
            verdict = replace(verdict, end=end)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begin(_Record(claim, verdict, on_recorded, done))
        return done

    def _begin(self, record: _Record) -> None:
        self._write(record.claim, record.verdict).add_done_callback(partial(self._written, record))

    def _written(self, record: _Record, outcome: asyncio.Future[bool]) -> None:
        try:
            error = outcome.exception()
            if isinstance(error, StoreUnavailable):
                fields = {"job": record.claim.job_id, "reason": error.detail, "repeats": "could not record an end"}
                log.error("could not record an end; retrying", extra=fields)
                asyncio.get_running_loop().call_later(_RETRY_DELAY, self._begin, record)
            else:
                self._recorded(record.claim, record.verdict, is_known=outcome.result())
                record.on_recorded()
                if not record.done.done():
                    record.done.set_result(None)
        except BaseException as bug:  # noqa: BLE001  a callback of the loop: its exceptions are only logged
            self._on_bug(bug)

    def _recorded(self, claim: Claim, verdict: Verdict, *, is_known: bool) -> None:
        if not is_known:
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

    def _write(self, claim: Claim, verdict: Verdict) -> asyncio.Future[bool]:
        if isinstance(verdict, Ended):
            end, volume, head = verdict.end, verdict.volume, verdict.head
            due = next_attempt_at(claim.spec, claim.attempt, end, now_ms())
            return self._store.finish(claim.job_id, claim.token, end, volume, head, next_attempt_at=due)
        return self._store.requeue(claim.job_id, claim.token)
