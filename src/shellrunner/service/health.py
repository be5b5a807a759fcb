"""Health: write to the history periodically, feed systemd's watchdog, and find out whether a job would be accepted.

Owned by the composition root. Must not know HTTP or SQL.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from shellrunner.errors import NoSpace, OutcomeUnknown, ShellrunnerError, StoreUnavailable
from shellrunner.store import Store
from shellrunner.systemd.notify import Notifier
from shellrunner.web.app_keys import NotReady

log = logging.getLogger("shellrunner.service")

CHECK_INTERVAL: Final = 5.0  # seconds, unless systemd's watchdog wants it more often
_MAX_AGE: Final = 1.0  # seconds for which a check counts when somebody asks
_TIMEOUT: Final = 1.0  # seconds to wait for a check that was asked for


class Health:
    """Checks periodically that the history can be written."""

    def __init__(self, store: Store, notifier: Notifier, *, restart_helps: bool = True) -> None:
        """Check as often as systemd's watchdog wants, at least every few seconds.

        Without `restart_helps`, the watchdog is fed also while the history cannot be written, as long as each check
        ends: another process of this service could not write it either.
        """
        self._store, self._notifier, self._restart_helps = store, notifier, restart_helps
        self._interval = min(CHECK_INTERVAL, notifier.watchdog_interval or CHECK_INTERVAL)
        self._last_success = self._last_check = time.monotonic()
        self._failure: StoreUnavailable | None = None
        self._wanted, self._checked = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Check until cancelled: periodically, and when `refresh` asks for it."""
        while True:
            self._wanted.clear()
            await self.check()
            self._checked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wanted.wait()

    async def check(self) -> None:
        """Write to the history; if that succeeds, notify systemd's watchdog."""
        try:
            await self._store.check()
        except StoreUnavailable as error:
            if self._failure is None:
                log.error("the history cannot be written", extra={"reason": error.detail, "repeats": "history"})  # noqa: TRY400
            self._failure = error
        else:
            if self._failure is not None:
                log.info("the history can be written again")
            self._failure = None
        self._last_check = time.monotonic()
        # On a full disk too: a restart frees no space, and keeps users from deleting jobs.
        if self._failure is None or isinstance(self._failure, NoSpace) or not self._restart_helps:
            self._last_success = self._last_check
            self._notifier.watchdog()

    async def refresh(self) -> None:
        """Check now, unless that succeeded a moment ago."""
        if self._failure or time.monotonic() - self._last_check > _MAX_AGE:
            self._checked.clear()
            self._wanted.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_TIMEOUT):
                    await self._checked.wait()

    def failures(self) -> list[NotReady]:
        """Return why the history cannot be used; empty if it can."""
        if self._failure:
            return [_not_ready(self._failure)]
        silent = time.monotonic() - self._last_success
        if silent > 3 * self._interval:
            return [NotReady(StoreUnavailable.code, f"the history has not responded for {silent:.0f} s")]
        return []


class AuditProbe(Protocol):
    """An audit sink that finds out whether it can be written."""

    async def failure(self) -> str | None:
        """Return why a line could not be written now; None if it could."""


class KeeperSource(Protocol):
    """Starts the keepers."""

    @property
    def spawn_failure(self) -> str | None:
        """Why the last keeper could not be started; None if it was."""


class Readiness:
    """Whether a submission would be accepted now, and its job run."""

    def __init__(
        self,
        store: Store,
        health: Health,
        audit: AuditProbe,
        keepers: KeeperSource,
        supervising: asyncio.Task[None],
        *,
        accepts_jobs: bool = True,
    ) -> None:
        """Ask each part on which a submission depends; `supervising` is done only if the supervisor crashed.

        A node that does not accept jobs is ready while a queue is full.
        """
        self._accepts_jobs = accepts_jobs
        self._store, self._health, self._audit, self._keepers = store, health, audit, keepers
        self._supervising = supervising

    async def reasons(self) -> Sequence[NotReady]:
        """Return why jobs are not accepted or not run at the moment; empty if they are."""
        await self._health.refresh()
        found = {reason.kind: reason for reason in self._health.failures()}
        for refusal in self._store.refusals():
            if not self._accepts_jobs and not isinstance(refusal, StoreUnavailable):
                continue
            reason = _not_ready(refusal)
            found.setdefault(reason.kind, reason)
        if failure := await self._audit.failure():
            found["audit-unavailable"] = NotReady("audit-unavailable", f"the audit log cannot be written: {failure}")
        if failure := self._keepers.spawn_failure:
            found["no-keeper"] = NotReady("no-keeper", f"no keeper can be started: {failure}")
        if self._supervising.done():
            found["crashed"] = NotReady("crashed", "the supervisor has crashed")
        return list(found.values())


def _not_ready(refusal: ShellrunnerError) -> NotReady:
    """Return an error of the store as a reason; only a single request can have an unknown outcome."""
    kind = StoreUnavailable.code if isinstance(refusal, OutcomeUnknown) else refusal.code
    return NotReady(kind, refusal.detail)
