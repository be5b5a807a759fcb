"""A claimed job that runs, or is about to: its keeper's connection, whether it is to be cancelled, its watchdog.

Owned by the supervisor. Must not know the store.
"""

import asyncio
from collections.abc import Callable

from shellrunner.keeper.protocol import Message
from shellrunner.model import Claim, TerminalSize
from shellrunner.supervisor.keeper_connection import KeeperConnection


class RunningJob:
    """A claim whose command runs, or will in a moment, under a keeper."""

    def __init__(self, claim: Claim, on_change: Callable[[int], object], *, is_adopted: bool = False) -> None:
        """`on_change` is called with the job's id when its keeper says that something has changed.

        `is_adopted`: it was started by an earlier server, so only its keeper knows whether it is paused.
        """
        self.claim = claim
        self._on_change = on_change
        tty = None if is_adopted else claim.spec.tty
        self.is_paused = None if is_adopted else False
        self.terminal = TerminalSize(tty.rows, tty.columns) if tty else None  # as of now
        self.cancel_requested = claim.cancelling
        self.kill_only = claim.kill_only  # the cancel sends no TERM
        self.cancel_sent = False  # the keeper was sent the cancel, or has nothing left to cancel
        self.connection: KeeperConnection | None = None  # set once `start` was sent, or the keeper was found again
        self.is_over = False  # its end, or that it was never started, is known
        self.end_is_unwritten = False  # into its slot: its keeper keeps it until it is recorded
        self._watchdog: asyncio.TimerHandle | None = None

    def update(self, state: Message) -> None:
        """Take over what its keeper says: a `state` message, or `hello`."""
        if (state["job"], state["token"]) != (self.claim.job_id, self.claim.token):
            return
        before = self.is_paused, self.terminal
        self.is_paused = state.get("paused", False)  # a keeper of an earlier version cannot pause anything
        self.terminal = TerminalSize(*state["tty"]) if state.get("tty") else None
        if (self.is_paused, self.terminal) != before:
            self._on_change(self.claim.job_id)

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
