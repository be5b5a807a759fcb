"""Delivery engines: each job to one transaction, in order; what one loses or doubles costs no job and no claim."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shellrunner.model import Done, JobSpec, State, Submitter
from shellrunner.store import Filters, QueueLimit, QueueLimits
from shellrunner.store.db import Db
from shellrunner.store.postgres.delivery import Delivered, DeliveryEngine, QueuedJob
from shellrunner.store.postgres.delivery.adversarial import AdversarialDelivery
from shellrunner.store.postgres.delivery.pgqueuer_engine import PgqueuerDelivery, entry_point
from shellrunner.store.postgres.delivery.table_delivery import TableDelivery
from shellrunner.store.postgres.effects import sweep
from shellrunner.store.postgres.effects.outbox import Outbox
from shellrunner.store.postgres.engine.connection_thread import connect
from shellrunner.store.postgres.engine.postgres_db import Connection, PostgresDb
from shellrunner.store.queues import Line
from tests.support import nodes as several_nodes
from tests.support.histories import NOTHING, SPEC, ended
from tests.support.nodes import Cluster
from tests.support.waiting import until

MAIL, DEFAULT, CI = Line("mail", None), Line("default", None), Line("default", "token:ci")


@pytest.fixture
def connections(cluster: Cluster) -> Iterator[tuple[Connection, Connection]]:
    """Yield two connections, each in a transaction."""
    with connect(cluster.url) as one, connect(cluster.url) as two:
        for each in (one, two):
            each.execute("BEGIN")
        yield one, two


@pytest.fixture(params=[PgqueuerDelivery, TableDelivery])
def engine(request: pytest.FixtureRequest) -> Any:
    """Yield each engine that config can choose."""
    return request.param()


def queued(connection: Connection, engine: DeliveryEngine, jobs: list[tuple[Line, int]]) -> list[int]:
    """Add rows of queued jobs, and offer them in a transaction of its own; return their ids."""
    connection.execute("ROLLBACK")
    with connection.transaction():
        ids = [
            connection.execute(
                "INSERT INTO jobs (state, queue, submitter, priority, created, command, spec)"
                " VALUES ('queued', %s, %s, %s, 0, 'true', '{}') RETURNING id",
                [line.queue, line.submitter, priority],
            ).fetchone()[0]  # type: ignore[index]
            for line, priority in jobs
        ]
        offers = [QueuedJob(job_id, *job) for job_id, job in zip(ids, jobs, strict=True)]
        engine.enqueue(PostgresDb(connection), offers)
    connection.execute("BEGIN")
    return ids


def test_the_highest_priority_comes_first_then_the_oldest(connections: Any, engine: DeliveryEngine) -> None:
    """Over all lines that are asked for, and of no other line."""
    one, _ = connections
    ids = queued(one, engine, [(DEFAULT, 0), (CI, 5), (MAIL, 9), (DEFAULT, 5), (CI, -1)])
    found = engine.dequeue(PostgresDb(one), [DEFAULT, CI], 10)
    assert [each.job_id for each in found] == [ids[1], ids[3], ids[0], ids[4]]


INSERT_MANY = """INSERT INTO jobs (state, queue, submitter, priority, created, command, spec)
    SELECT 'queued', %s, %s, 0, 0, 'true', '{}' FROM generate_series(1, 5000)"""
ROWS_READ = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"


@pytest.mark.heavy
@pytest.mark.parametrize("line", [DEFAULT, CI], ids=["no submitter", "submitter"])
@pytest.mark.parametrize("is_analyzed", [True, False])
def test_a_long_queue_costs_no_more_rows_than_are_asked_for(
    cluster: Cluster, engine: DeliveryEngine, line: Line, is_analyzed: bool
) -> None:
    """A delivery of 10 jobs of 5,000 reads only few more rows than these; as the writer of a node plans it."""
    with connect(cluster.url, plans_once=True) as one:
        one.execute(INSERT_MANY, [line.queue, line.submitter])
        ids = [row[0] for row in one.execute("SELECT id FROM jobs ORDER BY id").fetchall()]
        engine.enqueue(PostgresDb(one), [QueuedJob(job_id, line, 0) for job_id in ids])
        if is_analyzed:
            one.execute("ANALYZE")
        one.execute("BEGIN")
        ((before,),) = one.execute(ROWS_READ).fetchall()
        found = engine.dequeue(PostgresDb(one), [line, MAIL], 10)
        ((after,),) = one.execute(ROWS_READ).fetchall()
    assert [each.job_id for each in found] == ids[:10]
    assert after - before < 100


def test_two_transactions_get_different_jobs(connections: Any, engine: DeliveryEngine) -> None:
    """What one has got, the other one does not wait for."""
    one, two = connections
    ids = queued(one, engine, [(DEFAULT, 0)] * 5)
    first = engine.dequeue(PostgresDb(one), [DEFAULT], 2)
    second = engine.dequeue(PostgresDb(two), [DEFAULT], 10)
    assert [each.job_id for each in first] == ids[:2]
    assert [each.job_id for each in second] == ids[2:]


def test_what_was_rolled_back_is_offered_again(connections: Any, engine: DeliveryEngine) -> None:
    """A transaction that got a job and did not commit has changed nothing."""
    one, two = connections
    ids = queued(one, engine, [(DEFAULT, 0)])
    engine.dequeue(PostgresDb(one), [DEFAULT], 1)
    one.execute("ROLLBACK")
    assert [each.job_id for each in engine.dequeue(PostgresDb(two), [DEFAULT], 1)] == ids


def test_a_lost_delivery_is_made_up_for(connections: Any) -> None:
    """A queued job without a row of the engine is offered again, once, whatever its line is called."""
    one, _ = connections
    engine, odd = PgqueuerDelivery(), Line('q"\\', "token:ж")
    ids = queued(one, engine, [(DEFAULT, 0), (odd, 3)])
    one.execute("DELETE FROM pgqueuer")
    db = PostgresDb(one)
    assert engine.find_lost(db, 0) == []
    lost = engine.find_lost(db, 1)
    assert lost == [QueuedJob(ids[0], DEFAULT, 0), QueuedJob(ids[1], odd, 3)]
    engine.redeliver(db, lost)
    assert engine.find_lost(db, 1) == []
    assert [each.job_id for each in engine.dequeue(db, [DEFAULT, odd], 9)] == [ids[1], ids[0]]
    assert entry_point(odd) != entry_point(Line("q", None))


@pytest.mark.heavy
@pytest.mark.parametrize("plans_once", [False, True])
def test_looking_for_lost_deliveries_reads_each_row_a_few_times(cluster: Cluster, plans_once: bool) -> None:
    """Also by a plan that was made while no job was queued: else the look of a long queue takes for ever."""
    engine = PgqueuerDelivery()
    with connect(cluster.url, plans_once=plans_once) as connection:
        db = PostgresDb(connection)
        for _ in range(10):
            assert engine.find_lost(db, 1) == []
        connection.execute("BEGIN")
        connection.execute(INSERT_MANY, [DEFAULT.queue, None])
        ids = [row[0] for row in connection.execute("SELECT id FROM jobs ORDER BY id").fetchall()]
        engine.enqueue(db, [QueuedJob(job_id, DEFAULT, 0) for job_id in ids[:-2]])
        connection.execute("COMMIT")
        connection.execute("BEGIN")
        ((before,),) = connection.execute(ROWS_READ).fetchall()
        found = engine.find_lost(db, 1)
        ((after,),) = connection.execute(ROWS_READ).fetchall()
    assert [each.job_id for each in found] == ids[-2:]
    assert after - before < 10 * len(ids)


def test_a_settled_job_is_forgotten(connections: Any) -> None:
    """pgqueuer keeps no row of a job that was claimed, so that its table stays as small as what is queued."""
    one, _ = connections
    engine = PgqueuerDelivery()
    queued(one, engine, [(DEFAULT, 0)] * 3)
    db = PostgresDb(one)
    engine.settle(db, [*engine.dequeue(db, [DEFAULT], 2), Delivered(1, 10**9)])
    assert one.execute("SELECT count(*) FROM pgqueuer").fetchone() == (1,)


def test_the_log_of_the_engine_stays_short(connections: Any) -> None:
    """Nobody reads it, and each sweep reads all of it."""
    one, _ = connections
    one.execute("""INSERT INTO pgqueuer_log (created, job_id, status, priority, entrypoint)
        SELECT now() - make_interval(secs => age), age, 'queued', 0, '' FROM unnest(ARRAY[30, 90, 4000]) AS age""")
    PgqueuerDelivery().redeliver(PostgresDb(one), [])
    assert one.execute("SELECT job_id FROM pgqueuer_log").fetchall() == [(30,)]


def test_offers_that_cannot_be_claimed_are_forgotten(connections: Any) -> None:
    """Those of jobs that were cancelled, deleted, moved or given another priority; not those of another line."""
    one, _ = connections
    engine = PgqueuerDelivery()
    cancelled, deleted, moved, edited, kept, other = queued(one, engine, [(CI, 0)] * 5 + [(DEFAULT, 0)])
    one.execute("UPDATE jobs SET state = 'done' WHERE id = ANY(%s)", [[cancelled, other]])
    one.execute("DELETE FROM jobs WHERE id = %s", [deleted])
    one.execute("UPDATE jobs SET queue = 'elsewhere' WHERE id = %s", [moved])
    one.execute("UPDATE jobs SET priority = 1 WHERE id = %s", [edited])
    engine.forget_unclaimable(PostgresDb(one), [CI])
    left = one.execute("SELECT convert_from(payload, 'UTF8')::bigint FROM pgqueuer ORDER BY id").fetchall()
    assert left == [(kept,), (other,)]


class CountedDelivery(PgqueuerDelivery):
    """Counts the looks for jobs; something may happen before the next one."""

    def __init__(self) -> None:
        self.looks = 0
        self.before_look: Callable[[], object] | None = None

    def dequeue(self, db: Db, lines: Sequence[Line], limit: int) -> Sequence[Delivered]:
        """See the engine."""
        self.looks += 1
        if self.before_look is not None:
            self.before_look()
            self.before_look = None
        return super().dequeue(db, lines, limit)


@pytest.mark.heavy
async def test_many_cancelled_jobs_hold_up_nothing(tmp_path: Path) -> None:
    """The one keeper that waits gets the job behind them after some looks, not one for each of them."""
    delivery = CountedDelivery()
    with several_nodes.cluster(tmp_path, delivery=delivery) as cluster:
        async with cluster.node("one") as store:
            await store.add_many([SPEC] * 300)
            assert await store.cancel_jobs(Filters()) == 300
            job = await store.add(SPEC)
            assert (await asyncio.wait_for(store.claim(1, "t"), 30)).job_id == job.id
            assert delivery.looks < 30
            assert cluster.execute("SELECT count(*) FROM pgqueuer") == [(0,)]


@pytest.mark.heavy
async def test_a_job_is_found_behind_one_that_was_queued_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node adds a job that comes first, after it was counted how many are queued: both start at once."""
    monkeypatch.setattr(sweep, "_INTERVAL", 600)
    monkeypatch.setattr(Outbox, "waking", lambda *_: None)
    delivery = CountedDelivery()
    limited = QueueLimits(queues={"default": QueueLimit(max_running=5)})
    loop = asyncio.get_running_loop()
    with several_nodes.cluster(tmp_path, delivery=delivery) as cluster:
        async with cluster.node("one", queues=limited) as one, cluster.node("two", queues=limited) as two:
            await one.add(SPEC)
            first = JobSpec(command="true", priority=5)
            delivery.before_look = lambda: asyncio.run_coroutine_threadsafe(two.add(first), loop).result(20)
            claims = [asyncio.ensure_future(one.claim(number, f"t{number}")) for number in range(3)]
            await until(lambda: sum(each.done() for each in claims) == 2, 20, what="both jobs are claimed")
            (waiting,) = [each for each in claims if not each.done()]
            waiting.cancel()


@pytest.fixture
def hasty_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sweep look often, so that a test does not wait for it."""
    monkeypatch.setattr(sweep, "_INTERVAL", 0.05)
    monkeypatch.setattr(sweep, "_MIN_AGE", 100)
    monkeypatch.setattr(sweep, "_MAX_LOAD", 0.5)


@pytest.mark.heavy
@pytest.mark.usefixtures("hasty_sweep")
@pytest.mark.parametrize(
    "delivery",
    [
        pytest.param("pgqueuer", id="pgqueuer"),
        pytest.param("table", id="table"),
        pytest.param(AdversarialDelivery(1, max_delay=1.0), id="adversarial"),
        pytest.param(AdversarialDelivery(2, lost=1.0), id="everything-is-lost"),
    ],
)
async def test_every_job_runs_once_whatever_the_delivery_does(tmp_path: Path, delivery: Any) -> None:
    """Three nodes, 150 jobs of several lines, some of which wait for others: each is claimed once."""
    with several_nodes.cluster(tmp_path, delivery=delivery) as cluster:
        async with cluster.node("one") as one, cluster.node("two") as two, cluster.node("three") as three:
            nodes = (one, two, three)
            claims: Counter[tuple[int, int]] = Counter()

            async def work(number: int) -> None:
                store, turn = nodes[number % 3], 0
                while True:
                    turn += 1
                    claim = await store.claim(number, f"{number}-{turn}")
                    claims[claim.job_id, claim.attempt] += 1
                    assert await store.finish(claim.job_id, claim.token, ended(), *NOTHING)

            jobs = [
                await nodes[n % 3].add(JobSpec(command="true", priority=n % 4), by=Submitter(f"token:{n % 2}"))
                for n in range(50)
            ]
            workers = [asyncio.create_task(work(number)) for number in range(6)]
            for number in range(100):
                after = (jobs[number % 50].id,) if number % 5 == 0 else ()
                jobs.append(await nodes[number % 3].add(JobSpec(command="true", after=after)))

            async def all_done() -> bool:
                return all(job.state is State.DONE for job in await one.jobs([job.id for job in jobs]))

            await until(all_done, 40, what="every job is done")
            assert [worker for worker in workers if worker.done()] == []
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            assert claims == Counter({(job.id, 1): 1 for job in jobs})
            (queue,) = (await two.queues()).queues
            assert (queue.running, queue.queued, queue.waiting) == (0, 0, 0)
            assert (await three.size()).jobs == len(jobs)


async def test_a_delivery_of_a_cancelled_job_starts_nothing(cluster: Cluster) -> None:
    """The engine still has its row: the claim refuses it, and the row goes."""
    async with cluster.node("one") as store:
        job = await store.add(SPEC)
        await store.request_cancel(job.id)
        assert cluster.execute("SELECT count(*) FROM pgqueuer") == [(1,)]
        other = await store.add(SPEC)
        claim = await store.claim(1, "t")
        assert claim.job_id == other.id
        await until(lambda: cluster.execute("SELECT count(*) FROM pgqueuer") == [(0,)], what="no row is left")
        assert isinstance((await store.job(job.id)).phase, Done)
        assert len((await store.page(Filters(), (), limit=9)).jobs) == 2
