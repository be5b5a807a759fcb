"""Opening a history in SQLite: pick the parts of the store, run its tasks, close it.

Called by the composition root of the service. Each part is built from those above it; what a task acts on is handed
to its `run`, so that no part needs one that is built later.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from shellrunner.sealing.job_keys import JobKeys
from shellrunner.store import QueueLimits, Retention
from shellrunner.store.change_log import InMemoryChangeLog
from shellrunner.store.components.bulk_changes import BulkChanges
from shellrunner.store.components.due_timer import DueTimer
from shellrunner.store.components.queue_counts import QueueCounts
from shellrunner.store.hosts import ThisHost
from shellrunner.store.notifications import Notifications
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.output.reader import ClaimedOutput, OutputReader
from shellrunner.store.output.spill import SpillRemover
from shellrunner.store.query.search import Indexer
from shellrunner.store.sqlite.claim_requests import ClaimRequests
from shellrunner.store.sqlite.claims import Claims
from shellrunner.store.sqlite.effects.bulk_writer import BulkWriter
from shellrunner.store.sqlite.effects.clock_watch import ClockWatch
from shellrunner.store.sqlite.effects.commit_effects import CommitEffects
from shellrunner.store.sqlite.effects.generation import GenerationCounter
from shellrunner.store.sqlite.effects.maintenance import Maintenance
from shellrunner.store.sqlite.effects.size_count import SizeCount
from shellrunner.store.sqlite.effects.trimmer import RetentionTrimmer
from shellrunner.store.sqlite.engine.batch_writer import BatchWriter
from shellrunner.store.sqlite.engine.db_thread import connect
from shellrunner.store.sqlite.engine.disk_reserve import DiskReserve
from shellrunner.store.sqlite.engine.engine import Engine, EngineConnections
from shellrunner.store.sqlite.opening import HistoryOpener
from shellrunner.store.sqlite.point_reads import PointReads
from shellrunner.store.sqlite.single_host import SingleHost
from shellrunner.store.sqlite.store import Parts, SqliteStore
from shellrunner.tasks import background

_UNLIMITED = QueueLimits()


@asynccontextmanager
async def open_store(
    state_dir: Path,
    retention: Retention,
    queues: QueueLimits = _UNLIMITED,
    min_free: int = 0,
    *,
    host: ThisHost = ThisHost(),  # noqa: B008  it is immutable
    new_history: bool = False,
) -> AsyncIterator[SqliteStore]:
    """Open the history in this directory, or create one; at the end, write everything submitted, and close it.

    No job is accepted while fewer than `min_free` bytes are free on the disk. With `new_history`, what another
    history has left in the directory is set aside, instead of refused.

    Raises:
        StoreUnavailable: it cannot be opened; the message says why and what to do.
    """
    with closing(HistoryOpener(str(state_dir), new_history=new_history)) as opener:
        async with (
            connect(opener.open, opener.interrupt) as writing,
            connect(opener.open_reading) as reading_one,
            connect(opener.open_reading) as reading_two,
        ):
            # Opened here, as it is used on this thread; what it reads, those before it have just read.
            with closing(opener.open_reading(waits=False)) as on_loop:
                connections = EngineConnections(writing, (reading_one, reading_two), on_loop)
                async with _running(
                    opener, connections, str(state_dir), (retention, queues, min_free), host
                ) as store:
                    yield store


@asynccontextmanager
async def _running(
    opener: HistoryOpener,
    connections: EngineConnections,
    state_dir: str,
    limits: tuple[Retention, QueueLimits, int],
    host: ThisHost,
) -> AsyncIterator[SqliteStore]:
    """Compose the store and run its tasks; at the end, finish what was submitted."""
    retention, queue_limits, min_free = limits
    writer = BatchWriter(DiskReserve(f"{state_dir}/ballast", min_free), opener.files)
    engine = Engine(connections, writer)
    point_reads = PointReads(engine)
    storage = LocalStorage(state_dir)
    outputs = OutputReader(storage, point_reads.run)
    counts = QueueCounts(queue_limits, opener.undone, opener.pauses, opener.queue_limits)
    requests = ClaimRequests(counts, engine.writes.wake)
    owners = opener.owners

    effects = CommitEffects(
        counts=counts,
        owners=owners,
        changes=InMemoryChangeLog(),
        point_reads=point_reads,
        notifications=Notifications(ClaimedOutput(storage, owners)),
        requests=requests,
        trimmer=RetentionTrimmer(retention),
        spill=SpillRemover(state_dir),
        keys=JobKeys(opener.keys.files, opener.keys.in_use, opener.keys.unused),
        due_timer=DueTimer(),
        indexer=Indexer(engine.write),
    )
    clock = ClockWatch(opener.seen_time)
    claims = Claims(requests, counts, effects, engine.writes, effects.keys.unseal)
    maintenance = Maintenance(engine, effects, effects.trimmer, clock, counts)
    generation = GenerationCounter(opener.identity, engine, opener.high_water)
    store = SqliteStore(
        Parts(
            generation,
            engine,
            effects,
            requests,
            claims,
            point_reads,
            outputs,
            clock,
            opener.high_water,
            effects.keys,
            opener.keys.digests,
            BulkChanges(BulkWriter(engine, effects)),
            opener.unknown_input_up_to,
            SingleHost(host, counts),
        )
    )

    async with background() as tasks:
        removing = (
            tasks.start("store-spill-remover", effects.spill.run()),
            tasks.start("store-key-remover", effects.keys.run_removal()),
        )
        try:
            async with engine.running(tasks, claims):
                counting = tasks.start("store-size-count", SizeCount(opener.as_opened).run(effects.trimmer.counted))
                tasks.start("store-notifications", effects.notifications.run())
                tasks.start("store-retention", effects.trimmer.run(maintenance.remove_oldest))
                tasks.start("store-due-timer", effects.due_timer.run(maintenance.queue_due))
                tasks.start("store-search-indexer", effects.indexer.run())
                tasks.start("store-key-maker", effects.keys.run_creation())
                tasks.start("store-generation", generation.run(lambda: effects.changes.head))
                tasks.start("store-checkpoint", generation.run_checkpoints())
                try:
                    yield store
                finally:
                    requests.close()
                    counting.cancel()  # it must be over before the connections are closed
                    await generation.try_advance(last=True)
        finally:
            effects.spill.close()
            effects.keys.close()
            await asyncio.wait(removing)
            storage.close()
