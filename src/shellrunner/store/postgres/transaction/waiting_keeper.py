"""A keeper of this node that waits for a job.

Made by `claim_queue`, given a job by a transaction.
"""

import asyncio
from dataclasses import dataclass, field

from shellrunner.model import Claim


@dataclass(eq=False, slots=True)
class WaitingKeeper:
    """A keeper that waits for a job, which it would claim under this claim token."""

    keeper: int
    token: str
    future: asyncio.Future[Claim] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
