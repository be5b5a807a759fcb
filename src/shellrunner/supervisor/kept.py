"""A claim that is being seen through: its keeper, whether it is to end, and when it is overdue.

Owned by the supervisor. Must not know the store.
"""

import asyncio

from shellrunner.model import Claim
from shellrunner.supervisor.links import Link


class Kept:
    """A claim whose command runs, or will in a moment, under a keeper."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.cancelling = claim.cancelling
        self.told = False  # the keeper knows that it is to be cancelled, or has nothing left to cancel
        self.link: Link | None = None  # once the keeper was told to start
        self.overdue: asyncio.TimerHandle | None = None
