"""The health check: write to the history periodically, and feed systemd's watchdog only if that succeeds.

Owned by the composition root. Must not know HTTP or SQL.
"""

import asyncio
import logging
import time
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store import Store
from shellrunner.systemd.notify import Notifier

log = logging.getLogger("shellrunner.service")

CHECK_INTERVAL: Final = 5.0  # seconds, unless systemd's watchdog wants it more often


class Health:
    """Checks periodically that the history can be written."""

    def __init__(self, store: Store, notifier: Notifier) -> None:
        """Check as often as systemd's watchdog wants, at least every few seconds."""
        self._store, self._notifier = store, notifier
        self._interval = min(CHECK_INTERVAL, notifier.watchdog_interval or CHECK_INTERVAL)
        self._last_success = time.monotonic()
        self._failure: str | None = None

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval)

    async def check(self) -> None:
        """Write to the history; if that succeeds, notify systemd's watchdog."""
        try:
            await self._store.check()
        except StoreUnavailable as error:
            if self._failure is None:
                log.error("the history cannot be written", extra={"reason": error.detail, "repeats": "history"})  # noqa: TRY400
            self._failure = error.detail
        else:
            self._failure, self._last_success = None, time.monotonic()
            self._notifier.watchdog()

    def failures(self) -> list[str]:
        """Return why the history cannot be used; empty if it can."""
        if self._failure:
            return [self._failure]
        silent = time.monotonic() - self._last_success
        return [f"the history has not responded for {silent:.0f} s"] if silent > 3 * self._interval else []
