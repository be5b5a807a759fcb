"""A claim that is being seen through: its keeper, whether it is to end, and when it is overdue.

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
        self.cancelling = claim.cancelling
        self.told = False  # the keeper knows that it is to be cancelled, or has nothing left to cancel
        self.link: KeeperConnection | None = None  # once the keeper was told to start
        self._overdue: asyncio.TimerHandle | None = None

    def watch(self, seconds: float, give_up: "Callable[[RunningJob], None]") -> None:
        """Give up on it in so many seconds (and not when that was to be before), unless it is watched no more."""
        if self._overdue:
            self._overdue.cancel()
        self._overdue = asyncio.get_running_loop().call_later(seconds, give_up, self)

    def watch_no_more(self) -> None:
        """Its keeper is done with it: a watch that a late wish began would end whatever the keeper has next."""
        self.told = True
        if self._overdue:
            self._overdue.cancel()
