"""This node as a member of the cluster: its lease, what follows from another era, its turn at judging the others.

Built by `composition`; puts the parts of `hosts` together. Must not know the rest of the store.
"""

from collections.abc import Sequence
from typing import Protocol

from shellrunner.model import Claim
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.hosts import late_witness, shared_settings
from shellrunner.store.postgres.hosts.end_writer import EndWriter
from shellrunner.store.postgres.hosts.host_registry import HostRegistry
from shellrunner.store.postgres.hosts.judge import Judge
from shellrunner.store.postgres.hosts.lease import HostLease
from shellrunner.store.postgres.hosts.reconciler import Reconciler
from shellrunner.store.postgres.node import node_jobs
from shellrunner.store.postgres.node.claim_queue import ClaimQueue
from shellrunner.store.postgres.node.database_clock import DatabaseClock
from shellrunner.store.postgres.node_config import Peer
from shellrunner.store.postgres.output_chunks.output_ends import OutputEnds
from shellrunner.store.postgres.transaction.situation import TransactionState
from shellrunner.store.transition import CommitListener
from shellrunner.store.values import SlotClaim
from shellrunner.tasks import TaskGroup


class HostListener(CommitListener, Protocol):
    """What follows from changes of hosts. owners: who of this node runs which job."""

    owners: dict[int, SlotOwner]

    def hosts_changed(self) -> None:
        """Follow that a host is drained, resumed or removed."""

    def hosts_judged(self, job_ids: Sequence[int], /) -> None:
        """Follow that the host of these running jobs is unreachable."""

    def host_returned(self) -> None:
        """Follow that this node is reachable again."""

    def met_another(self) -> None:
        """Follow that this node is not alone any more."""

    def leaving(self) -> None:
        """Follow that this node is being stopped."""


class Membership:
    """The parts. ends: records those of what this node runs."""

    def __init__(
        self,
        engine: PostgresEngine,
        state: TransactionState,
        clock: DatabaseClock,
        listener: HostListener,
        waiting: ClaimQueue,
        *,
        outputs: OutputEnds,
        lease: float,
        lost_after: float | None,
    ) -> None:
        """`lease`, `lost_after`: seconds."""

        def own_settings() -> str:
            return shared_settings.digests(state.limits, lost_after)

        self.ends = EndWriter(engine, listener, state.journal, outputs, clock.now)
        self._engine, self._listener = engine, listener
        self._lease = HostLease(
            state.node,
            engine,
            clock,
            lambda: len(waiting),
            own_settings=own_settings,
            journal=state.journal,
            listener=listener,
            on_met=listener.met_another,
            seconds=lease,
        )
        self._reconciler = Reconciler(
            engine, state, state.journal, clock, listener, listener.owners, self.ends.unrecorded, lease, waiting.look
        )
        self._judge = Judge(engine, self._lease, clock, listener, lost_after, listener.hosts_judged)
        self.registry = HostRegistry(
            state.node.name, engine, listener, clock.now, listener.hosts_changed, own_settings=own_settings
        )

    @property
    def hosts_by_state(self) -> dict[str, int]:
        """How many hosts there are in each state, as they were read last."""
        counts = dict.fromkeys(("open", "drained", "api_only", "stopped", "unreachable"), 0)
        for row in self._lease.rows:
            counts[row.state] += 1
        return counts

    def is_served(self, queue: str) -> bool:
        """Return whether a host starts jobs of this queue, as they were read last."""
        return any(row.state == "open" and (row.queues is None or queue in row.queues) for row in self._lease.rows)

    @property
    def lease_age(self) -> float:
        """For how many seconds the lease has not been renewed."""
        return self._lease.seconds_since_renewal

    @property
    def peers(self) -> Sequence[Peer]:
        """The other nodes that live."""
        return self._lease.peers

    def met(self, name: str) -> None:
        """Follow that this node lives."""
        self._lease.met(name)

    def left(self, name: str) -> None:
        """Follow that this node is being stopped."""
        self._lease.left(name)

    async def leave(self) -> None:
        """Report that this node is being stopped; the caller has it claim nothing any more."""
        await self._lease.leave()
        if self._lease.is_current:  # else the others would take it for the server that has its name
            self._listener.leaving()

    async def lost_claims(self, claims: Sequence[SlotClaim]) -> Sequence[Claim]:
        """Return those of these claims that are lost, and of which no witness has reported yet."""
        return await self._engine.read(lambda db: late_witness.lost_claims(db, claims)) if claims else ()

    async def join(self, node: str) -> None:
        """Become a host of the history, with what this node runs by it.

        Raises:
            StoreUnavailable: another server that lives has this node's name, or the database cannot be used.
        """
        await self._lease.join(self._reconciler.follow)
        # Not read before: an earlier server of this name may have claimed something meanwhile.
        self._listener.owners.update(await self._engine.read(lambda db: node_jobs.owners(db, node)))

    def start(self, tasks: TaskGroup) -> None:
        """Stay one, and judge the others, until the tasks are cancelled."""
        tasks.start("store-lease", self._lease.run(self._reconciler.follow, self._listener.host_returned))
        tasks.start("store-judge", self._judge.run())
