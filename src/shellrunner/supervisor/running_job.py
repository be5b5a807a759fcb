"""A claimed job that runs, or is about to: its keeper's connection, whether it is to be cancelled, its watchdog.

Owned by the supervisor. Must not know the store.
"""

import asyncio
from collections.abc import Callable

from shellrunner.model import Claim
from shellrunner.supervisor.keeper_connection import KeeperConnection


class RunningJob:
    """A claim whose command runs, or will in a moment, under a keeper."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.cancel_requested = claim.cancelling
        self.kill_only = claim.kill_only  # the cancel sends no TERM
        self.cancel_sent = False  # the keeper was sent the cancel, or has nothing left to cancel
        self.connection: KeeperConnection | None = None  # set once `start` was sent, or the keeper was found again
        self.is_over = False  # its end, or that it was never started, is known
        self.end_is_unwritten = False  # into its slot: its keeper keeps it until it is recorded
        self._watchdog: asyncio.TimerHandle | None = None

    def set_watchdog(self, seconds: float, on_timeout: "Callable[[RunningJob], None]") -> None:
        """Call `on_timeout` in so many seconds, unless `finish` comes first; replaces an earlier watchdog."""
        if self._watchdog:
            self._watchdog.cancel()
        self._watchdog = asyncio.get_running_loop().call_later(seconds, on_timeout, self)

    def finish(self) -> None:
        """Note that its keeper is done with it: the watchdog of a late cancel would kill the keeper's next job."""
        self.is_over = self.cancel_sent = True
        if self._watchdog:
            self._watchdog.cancel()
