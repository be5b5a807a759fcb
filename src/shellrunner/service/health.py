"""The pulse: proof, again and again, that the history can be written; systemd is told only then.

Owned by the composition root.
"""

import asyncio
import logging
import time
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store import Store
from shellrunner.systemd.notify import Notifier

log = logging.getLogger("shellrunner.service")

PULSE: Final = 5.0  # seconds between proofs that the history can be written, unless systemd asks more often


class Health:
    """Proves again and again that the history can be written, and tells systemd only then."""

    def __init__(self, store: Store, notifier: Notifier) -> None:
        """Beat as often as systemd's watchdog asks, at least every few seconds."""
        self._store, self._notifier = store, notifier
        self._pause = min(PULSE, notifier.watchdog_interval or PULSE)
        self._last = time.monotonic()
        self._complaint: str | None = None

    async def beat(self) -> None:
        """Go on until cancelled."""
        while True:
            await self.prove()
            await asyncio.sleep(self._pause)

    async def prove(self) -> None:
        """Write to the history; only if that succeeds, tell systemd."""
        try:
            await self._store.check()
        except StoreUnavailable as error:
            if self._complaint is None:
                log.error("the history cannot be written", extra={"reason": error.detail})  # noqa: TRY400
            self._complaint = error.detail
        else:
            self._complaint, self._last = None, time.monotonic()
            self._notifier.watchdog()

    def complaints(self) -> list[str]:
        """Why the history is not fit for work, or nothing."""
        if self._complaint:
            return [self._complaint]
        silent = time.monotonic() - self._last
        return [f"the history has not answered for {silent:.0f} s"] if silent > 3 * self._pause else []
