"""The hosts of a history in SQLite: one, which is this process.

Part of the store. Must not know the tables: what it shows is known in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import NoSuchHost, OnlyHost
from shellrunner.model import State
from shellrunner.store.components.queue_counts import QueueCounts
from shellrunner.store.hosts import Host, ThisHost


@dataclass(frozen=True, slots=True)
class SingleHost:
    """The `Hosts` of this back end."""

    host: ThisHost
    counts: QueueCounts
    opened: Millis = field(default_factory=now_ms)

    async def list(self) -> Sequence[Host]:
        running = sum(self.counts.count(queue, State.RUNNING) for queue in self.counts)
        this = Host(
            name=self.host.name,
            version=self.host.version,
            queues=None,
            slots=self.host.slots,
            running=running,
            unsettled=0,
            free=max(self.host.slots - running, 0),
            claims=True,
            draining=False,
            reachable=True,
            stopped=False,
            seen=now_ms(),
            joined=self.opened,
            is_this=True,
        )
        return [this]

    async def drain(self, name: str) -> Host:
        raise self._refusal(name)

    async def resume(self, name: str) -> Host:
        raise self._refusal(name)

    async def remove(self, name: str) -> int:
        raise self._refusal(name)

    def _refusal(self, name: str) -> NoSuchHost | OnlyHost:
        return OnlyHost() if name == self.host.name else NoSuchHost(name)
