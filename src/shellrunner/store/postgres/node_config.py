"""What a node of the cluster is: this one as config says it, others as far as they matter to this one.

Must not know SQL.
"""

import secrets
from dataclasses import dataclass, field
from typing import NamedTuple

from shellrunner.keeper.identity import boot_id


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A server process of a cluster; its name is unique in it.

    queues: from which it runs jobs (None: from all). slots: how many it runs at once. claims: whether it runs any.
    incarnation: of this process. boot: of its host. home: its state directory, as the host knows it.
    """

    name: str
    version: str
    slots: int
    queues: frozenset[str] | None = None
    claims: bool = True
    incarnation: str = field(default_factory=lambda: secrets.token_hex(8))
    boot: str = field(default_factory=boot_id)
    home: str = ""

    def runs(self, queue: str) -> bool:
        """Return whether it runs jobs of this queue."""
        return self.claims and (self.queues is None or queue in self.queues)


class Peer(NamedTuple):
    """Another node that lives.

    claims: whether it starts jobs now. free: how many more it would have run when it renewed its lease. queues: None:
    it runs those of all.
    """

    name: str
    claims: bool
    free: int
    queues: frozenset[str] | None

    def runs(self, queue: str) -> bool:
        """Return whether it starts jobs of this queue."""
        return self.claims and (self.queues is None or queue in self.queues)
