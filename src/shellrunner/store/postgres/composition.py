"""Opening a history in PostgreSQL at one node: pick the parts of the store, run its tasks, close it.

Called by the composition root of the service. Each part is built from those above it; what a task acts on is handed
to its `run`, so that no part needs one that is built later.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from shellrunner.store import QueueLimits, Retention
from shellrunner.store.change_log import InMemoryChangeLog
from shellrunner.store.components.bulk_changes import BulkChanges
from shellrunner.store.components.due_timer import DueTimer
from shellrunner.store.notifications import Notifications
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.output.reader import ClaimedOutput
from shellrunner.store.output.spill import SpillRemover
from shellrunner.store.postgres import text_index
from shellrunner.store.postgres.claims import NodeClaims
from shellrunner.store.postgres.delivery import DeliveryEngine
from shellrunner.store.postgres.delivery.pgqueuer_engine import PgqueuerDelivery
from shellrunner.store.postgres.delivery.table_delivery import TableDelivery
from shellrunner.store.postgres.effects.due_jobs import DueJobs
from shellrunner.store.postgres.effects.listener import Listener
from shellrunner.store.postgres.effects.node_bulk_writer import NodeBulkWriter
from shellrunner.store.postgres.effects.node_effects import NodeEffects
from shellrunner.store.postgres.effects.outbox import NODES_CHANNEL, Flag, Outbox, channel_of
from shellrunner.store.postgres.effects.retention_task import RetentionTask
from shellrunner.store.postgres.effects.sweep import Sweep
from shellrunner.store.postgres.effects.unwanted_commands import UnwantedCommands
from shellrunner.store.postgres.engine.connection_thread import PostgresThread
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.hosts.lease import LEASE
from shellrunner.store.postgres.hosts.membership import Membership
from shellrunner.store.postgres.node.claim_queue import ClaimQueue
from shellrunner.store.postgres.node.database_clock import DatabaseClock
from shellrunner.store.postgres.node.settings_view import SettingsView
from shellrunner.store.postgres.node_config import NodeConfig, Peer
from shellrunner.store.postgres.opening import Opened, open_history
from shellrunner.store.postgres.orders.command_facts import KnownCommands, OwnCommands
from shellrunner.store.postgres.orders.order_connection import OrderConnection
from shellrunner.store.postgres.orders.order_exchange import OrderExchange
from shellrunner.store.postgres.orders.order_service import OrderService
from shellrunner.store.postgres.orders.writer_leases import PostgresWriterLeases
from shellrunner.store.postgres.output_chunks.node_output import NodeOutput
from shellrunner.store.postgres.output_chunks.output_ends import OutputEnds
from shellrunner.store.postgres.output_chunks.sender import OutputSender
from shellrunner.store.postgres.store import NodeParts, PostgresStore
from shellrunner.store.postgres.transaction.situation import TransactionState
from shellrunner.store.state_files.free_space import FreeSpace
from shellrunner.store.values import ClusterFigures
from shellrunner.tasks import background

_UNLIMITED: Final = QueueLimits()
DELIVERIES: Final[dict[str, type[DeliveryEngine]]] = {"pgqueuer": PgqueuerDelivery, "table": TableDelivery}


@dataclass(frozen=True, slots=True)
class PostgresConfig:
    """Where the history is.

    delivery: one of `DELIVERIES`, or an engine. lost_after: seconds, see `hosts`; None: never.
    lease: seconds for which a host that does not renew it counts as reachable; the same at all nodes.
    min_free: bytes; while fewer are free on the disk of the state directory, this node starts no job.
    """

    url: str = field(repr=False)
    delivery: str | DeliveryEngine = "pgqueuer"
    lost_after: float | None = 600.0
    lease: float = LEASE
    min_free: int = 0

    def make_delivery(self) -> DeliveryEngine:
        """Return the delivery engine."""
        return DELIVERIES[self.delivery]() if isinstance(self.delivery, str) else self.delivery


@asynccontextmanager
async def open_store(
    config: PostgresConfig,
    state_dir: Path,
    retention: Retention,
    queues: QueueLimits = _UNLIMITED,
    *,
    node: NodeConfig,
) -> AsyncIterator[PostgresStore]:
    """Open the history at this node; at the end, write everything submitted, and close it.

    `state_dir`: of this node, with the slots and files of what it runs.

    Raises:
        StoreUnavailable: it cannot be opened; the message says why and what to do.
    """
    opened = await open_history(config.url, state_dir, node.name)
    with closing(opened.journal):
        async with _running(config, opened, str(state_dir), node, (retention, queues)) as store:
            yield store


@asynccontextmanager
async def _running(
    config: PostgresConfig,
    opened: Opened,
    state_dir: str,
    node: NodeConfig,
    limits: tuple[Retention, QueueLimits],
) -> AsyncIterator[PostgresStore]:
    """Compose the store and run its tasks; at the end, finish what was submitted."""
    clock, (retention_limits, queues) = DatabaseClock(), limits
    node = replace(node, home=opened.place)
    # Neither notifications nor orders outlive a crash of PostgreSQL; a NOTIFY would wait for the disk all the same.
    notifier = PostgresThread(config.url, "store-notifier", syncs=False)
    outbox = Outbox(node.name, notifier, lambda: membership.peers)
    state = TransactionState(node, config.make_delivery(), queues, opened.journal, outbox.waking)
    engine = PostgresEngine(config.url, node.name, state)
    storage = LocalStorage(state_dir)
    settings = SettingsView(engine, state)
    waiting = ClaimQueue(engine.writes.wake, FreeSpace(state_dir, config.min_free).is_low)
    notifications = Notifications(ClaimedOutput(storage, opened.owners))
    output = NodeOutput(
        node.name,
        config.url,
        storage,
        opened.owners,
        engine.read,
        run_write=engine.write,
        send_note=outbox.send_to,
        notifications=notifications,
    )
    due_timer = DueTimer(clock.now)
    effects = NodeEffects(
        owners=opened.owners,
        changes=InMemoryChangeLog(),
        notifications=notifications,
        waiting=waiting,
        spill=SpillRemover(state_dir),
        outbox=outbox,
        on_settings_changed=settings.expire,
        on_due=due_timer.set,
        on_changed_elsewhere=output.followers.changed,
        on_followed=output.sender.follow,
    )
    orders = _compose_orders(node, engine, notifier, effects, lambda: membership.peers)
    claims = NodeClaims(waiting, state, effects, engine.writes, clock.now)
    membership = Membership(
        engine,
        state,
        clock,
        effects,
        waiting,
        outputs=OutputEnds(output.sender, effects.spill),
        lease=config.lease,
        lost_after=config.lost_after,
    )
    retention = RetentionTask(retention_limits, engine, effects, clock.now, lambda: settings.held is not None)
    plan_text = text_index.plan if opened.has_search_index else text_index.plan_without_index
    store = PostgresStore(
        NodeParts(
            identity=opened.identity,
            digest_key=opened.digest_key,
            engine=engine,
            state=state,
            effects=effects,
            waiting=waiting,
            claims=claims,
            output=output,
            clock=clock,
            settings=settings,
            retention=retention,
            bulk=BulkChanges(NodeBulkWriter(engine, effects), clock.now, plan_text),
            unwanted=UnwantedCommands(engine, effects, clock.now),
            plan_text=plan_text,
            membership=membership,
            orders=orders,
            figures=partial(_figures, engine, effects, membership, claims, output.sender),
            unknown_input_up_to=opened.unknown_input_up_to,
        )
    )
    listener = Listener(
        config.url,
        [NODES_CHANNEL, channel_of(node.name)],
        lambda note: _note_received(effects, orders, membership, node.name, note),
        lambda: _notes_missed(effects, orders),
    )

    async with background() as tasks:
        removing = tasks.start("store-spill-remover", effects.spill.run())
        try:
            async with engine.running(tasks, claims):
                await membership.join(node.name)
                try:
                    await settings.read()
                    await listener.start()
                    await orders.start(tasks)
                    membership.start(tasks)
                    tasks.start("store-settings", settings.run())
                    tasks.start("store-outbox", outbox.run())
                    tasks.start("store-retention", retention.run())
                    tasks.start("store-due-timer", due_timer.run(DueJobs(engine, effects, clock).queue_due))
                    output.start(tasks, effects.spill)
                    tasks.start(
                        "store-sweep",
                        Sweep(engine, state.delivery, waiting, clock, due_timer, effects.notifications).run(),
                    )
                    yield store
                finally:
                    await _begin_close(engine, notifier, waiting, membership, outbox)
        finally:
            await listener.stop()
            notifier.close()
            output.close()
            effects.spill.close()
            await asyncio.wait([removing])
            storage.close()


async def _begin_close(
    engine: PostgresEngine, notifier: PostgresThread, waiting: ClaimQueue, membership: Membership, outbox: Outbox
) -> None:
    """Begin to close the store: what is left to do takes some seconds at most, also if the database hangs."""
    engine.close_soon()
    notifier.close_soon()
    waiting.close()
    await membership.leave()
    await outbox.flush()


def _compose_orders(
    node: NodeConfig,
    engine: PostgresEngine,
    notifier: PostgresThread,
    effects: NodeEffects,
    peers: Callable[[], Sequence[Peer]],
) -> OrderExchange:
    """Compose what carries orders between the nodes."""
    connection = OrderConnection(notifier)
    own_commands = OwnCommands(engine, effects.owners, effects.outbox.add_commands)
    effects.on_command_changed = own_commands.changed
    return OrderExchange(
        node.name,
        connection,
        OrderService(node.name, node.incarnation, connection, own_commands),
        own_commands,
        KnownCommands(engine, effects.changed_elsewhere),
        writers=PostgresWriterLeases(connection, node.incarnation),
        peers=lambda: [peer.name for peer in peers()],
    )


def _note_received(
    effects: NodeEffects, orders: OrderExchange, membership: Membership, node: str, note: dict[str, Any]
) -> None:
    flags = note.get("flags") or ()
    if Flag.LEAVING in flags:
        membership.left(note["from"])
    else:
        membership.met(note.get("from", node))
    effects.note_received(node, note)
    orders.note_received(note)
    if Flag.EVERYTHING in flags and note["from"] != node:
        _notes_missed(effects, orders)


def _notes_missed(effects: NodeEffects, orders: OrderExchange) -> None:
    effects.notes_missed()
    orders.notes_missed()


def _figures(
    engine: PostgresEngine, effects: NodeEffects, membership: Membership, claims: NodeClaims, sender: OutputSender
) -> ClusterFigures:
    """Return what this node counts, as of now; not what the database has."""
    return ClusterFigures(
        hosts=membership.hosts_by_state,
        lease_age=membership.lease_age,
        is_available=engine.refusal() is None,
        written=engine.commits,
        read=engine.reads_begun,
        retries=engine.runs_again,
        notes_sent=effects.outbox.sent,
        notes_received=effects.notes_received,
        claims=claims.delivered,
        unrecorded_ends=len(membership.ends.unrecorded),
        unsent_outputs=sender.unsent(),
    )
