"""Transactions of a node: when a batch is run again, what a lost connection means, that nothing is done by half."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

from shellrunner.errors import InvalidJob, NoSuchJob, OutcomeUnknown, StoreUnavailable
from shellrunner.model import State
from shellrunner.store import IdempotencyKey
from shellrunner.store.db import Db, RowChangedError
from shellrunner.store.postgres import schema
from shellrunner.store.postgres.engine import connection_thread, failures
from shellrunner.store.postgres.engine.dialect import Unread
from shellrunner.store.postgres.engine.postgres_db import PostgresDb
from shellrunner.store.postgres.store import PostgresStore
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle
from tests.support import postgres
from tests.support.histories import NOTHING, SPEC, ended
from tests.support.nodes import Cluster
from tests.support.postgres import PostgresServer
from tests.support.waiting import until

TERMINATE = "SELECT pg_terminate_backend(pg_backend_pid())"
# A commit that is not answered: the server ends the connection while it commits, before or after it has taken effect.
SLOW_COMMIT = """CREATE FUNCTION end_connection() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER end_connection AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.command = 'unanswered') EXECUTE FUNCTION end_connection()"""


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[PostgresStore]:
    """Yield a node."""
    async with cluster.node("one") as opened:
        yield opened


OBSTACLES = [errors.SerializationFailure("x"), errors.DeadlockDetected("x"), RowChangedError()]


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda error: type(error).__name__)
async def test_a_batch_is_run_again_when_another_transaction_was_in_its_way(
    store: PostgresStore, obstacle: Exception
) -> None:
    """As often as that happens, up to ten times; what it had written then is written once."""
    runs = 0

    def unit(db: Db) -> int:
        nonlocal runs
        runs += 1
        db.execute("INSERT INTO paused (queue) VALUES (?)", (f"q{runs}",))
        if runs < 4:
            raise obstacle
        return runs

    assert await store._engine.write(unit) == 4
    assert await store._engine.read(lambda db: db.execute("SELECT queue FROM paused").fetchall()) == [("q4",)]


async def test_a_batch_that_never_succeeds_is_refused(store: PostgresStore) -> None:
    """After ten runs the caller gets an error, and the next batch runs."""

    def unit(db: Db) -> None:
        raise RowChangedError

    with pytest.raises(StoreUnavailable):
        await store._engine.write(unit)
    await store.check()


async def test_one_that_fails_costs_the_others_of_its_batch_nothing(store: PostgresStore) -> None:
    """A refusal, an error of a statement and a bug are their callers' alone."""

    def bad_statement(db: Db) -> None:
        db.execute("SELECT 1 / 0")

    def bug(db: Db) -> None:
        db.execute("INSERT INTO paused (queue) VALUES ('bug')")
        raise ZeroDivisionError

    outcomes = await asyncio.gather(
        store.add(SPEC),
        store.delete_job(77),
        store._engine.write(bad_statement),
        store._engine.write(bug),
        store.add(SPEC),
        return_exceptions=True,
    )
    first, missing, statement, broken, second = outcomes
    assert isinstance(missing, NoSuchJob)
    assert isinstance(statement, StoreUnavailable)
    assert "division by zero" in statement.detail
    assert isinstance(broken, ZeroDivisionError)
    assert not (await store.queues()).paused
    assert not isinstance(first, BaseException)
    assert not isinstance(second, BaseException)
    assert {job.id for job in await store.jobs([first.id, second.id])} == {first.id, second.id}


@pytest.mark.heavy
async def test_a_refused_job_leaves_no_key(cluster: Cluster, store: PostgresStore) -> None:
    """What seals its secrets is written only with the job."""
    with pytest.raises(InvalidJob):
        await store.add(SPEC.model_copy(update={"env": {"A": "secret"}, "after": (77,)}))
    assert cluster.execute("SELECT count(*) FROM job_keys WHERE name != 'idempotency'") == [(0,)]
    await store.add(SPEC.model_copy(update={"env": {"A": "secret"}}))
    assert cluster.execute("SELECT count(*) FROM job_keys WHERE name != 'idempotency'") == [(1,)]


@pytest.mark.heavy
async def test_a_connection_that_is_lost_in_a_unit_has_done_nothing(store: PostgresStore) -> None:
    """The caller gets 503, and the next call has another connection."""

    def unit(db: Db) -> None:
        db.execute("INSERT INTO paused (queue) VALUES ('x')")
        db.execute(TERMINATE)

    with pytest.raises(StoreUnavailable) as refused:
        await store._engine.write(unit)
    assert not isinstance(refused.value, OutcomeUnknown)
    assert not (await store.queues()).paused
    await store.add(SPEC)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://u@127.0.0.1:1/x", "connection failed: Connection refused"),
        ("postgresql://u@[::1]:1,127.0.0.1:1/x", "connection failed: Connection refused"),
        ("postgresql:///x?host=/127.0.0.1", "connection is bad: No such file or directory"),
        ("postgresql://u@127.0.0.1.invalid/x", "failed to resolve host: [Errno -2] Name or service not known"),
    ],
)
def test_clients_do_not_get_the_address_of_the_database(url: str, reason: str) -> None:
    """Only why it cannot be reached; the operator finds the address in the log and in config."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(url, connect_timeout=5)
    assert "127.0.0.1" in str(caught.value)
    detail = failures.unavailable(caught.value, "the history cannot be read").detail
    assert detail == f"the history cannot be read: {reason}"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (lambda server: server.url().replace(server.password, "x"), "password authentication failed for user"),
        (lambda server: server.url("no_such_database"), "database does not exist"),
    ],
)
def test_clients_do_not_get_the_names_of_the_database(url: Callable[[PostgresServer], str], reason: str) -> None:
    """What the server says of a connection that it refuses has those of its user, and of the database."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(url(postgres.shared()), connect_timeout=5)
    assert '"' in str(caught.value)
    detail = failures.unavailable(caught.value, "the history cannot be read").detail
    assert detail == f"the history cannot be read: connection failed: {reason}"


@pytest.mark.heavy
async def test_reads_are_repeated_on_another_connection(store: PostgresStore) -> None:
    """A read that finds its connection lost does not fail for that."""
    job = await store.add(SPEC)
    pids = []
    for _ in range(3):
        pids.append(await store._engine.read(lambda db: db.execute("SELECT pg_backend_pid()").fetchone()[0]))
        await store._engine.write(lambda db: db.execute("SELECT pg_terminate_backend(?::int)", (pids[-1],)))
        jobs = await asyncio.gather(*(store.job(job.id) for _ in range(4)))
        assert {each.id for each in jobs} == {job.id}
    assert len(set(pids)) > 1


@pytest.mark.heavy
async def test_a_commit_that_is_not_answered_is_of_unknown_outcome(cluster: Cluster, store: PostgresStore) -> None:
    """The error says so; the key shows the caller later how it ended, and there is one job at most."""
    cluster.execute(SLOW_COMMIT)
    key = IdempotencyKey("me", "k", b"digest")
    spec = SPEC.model_copy(update={"command": "unanswered"})
    with pytest.raises(OutcomeUnknown):
        await store.add(spec, key)
    cluster.execute("DROP TRIGGER end_connection ON jobs")
    again = await store.add(spec, key)
    assert cluster.execute("SELECT id FROM jobs") == [(again.id,)]
    assert [queue.queued for queue in (await store.queues()).queues] == [1]


def test_a_notification_that_cannot_be_sent_does_not_make_its_commit_fail(cluster: Cluster) -> None:
    """It is sent behind COMMIT, and lost; the next transaction is as any."""
    with connection_thread.connect(cluster.url) as connection:
        db = PostgresDb(connection)
        called: list[str] = []
        for queue in ("one", "two"):
            connection.execute("BEGIN")
            db.execute("INSERT INTO paused (queue) VALUES (?)", (queue,))
            assert db.commit(lambda: called.append("meanwhile"), ("SELECT 1 / 0", ())) == "COMMIT"
        assert called == ["meanwhile", "meanwhile"]
        assert cluster.execute("SELECT queue FROM paused ORDER BY queue") == [("one",), ("two",)]


PREPARED = """SELECT name, statement, parameter_types::text[], generic_plans, custom_plans
    FROM pg_prepared_statements"""
PAUSE = Unread("INSERT INTO paused (queue) VALUES (?)")


@pytest.mark.parametrize("then", [None, ("SELECT 1", ())], ids=["alone", "with a notification"])
@pytest.mark.parametrize("read", [False, True])
def test_what_nobody_reads_is_sent_with_the_next_statement_or_with_commit(
    cluster: Cluster, then: tuple[str, tuple[()]] | None, read: bool
) -> None:
    """In its order; a transaction that was rolled back leaves nothing of it to the next one."""
    with connection_thread.connect(cluster.url) as connection:
        db = PostgresDb(connection)
        db.begin()
        db.execute(PAUSE, ("rolled back",))
        assert db.has_written
        connection.execute("ROLLBACK")
        db.begin()
        db.execute(PAUSE, ("one",))
        if read:
            assert db.execute("SELECT queue FROM paused").fetchall() == [("one",)]
        db.execute(PAUSE, ("two",))
        assert db.commit(None, then) == "COMMIT"
    assert cluster.execute("SELECT queue FROM paused ORDER BY queue") == [("one",), ("two",)]


def test_outside_a_write_batch_it_is_sent_at_once(cluster: Cluster) -> None:
    """Who does not end the transaction with `commit` loses nothing."""
    with connection_thread.connect(cluster.url) as connection:
        db = PostgresDb(connection)
        with connection.transaction():
            db.execute(PAUSE, ("one",))
    assert cluster.execute("SELECT queue FROM paused") == [("one",)]


@pytest.mark.parametrize("then", [None, ("SELECT 1", ())], ids=["alone", "with a notification"])
def test_a_commit_fails_for_what_is_sent_with_it(cluster: Cluster, then: tuple[str, tuple[()]] | None) -> None:
    """Nothing of the transaction is committed, and what was to follow the commit does not."""
    with connection_thread.connect(cluster.url) as connection:
        db = PostgresDb(connection)
        db.begin()
        db.execute("INSERT INTO paused (queue) VALUES ('one')")
        db.execute(PAUSE, ("one",))
        with pytest.raises(psycopg.errors.UniqueViolation):
            db.commit(None, then)
        connection.execute("ROLLBACK")
    assert cluster.execute("SELECT queue FROM paused") == []


@pytest.mark.parametrize("then", [None, ("SELECT 1", ())], ids=["alone", "with a notification"])
def test_statements_that_were_not_reached_can_be_prepared_again(
    cluster: Cluster, then: tuple[str, tuple[()]] | None
) -> None:
    """A batch that is run again has all of its statements, at whichever of its runs they are prepared."""
    insert = Unread("INSERT INTO meta (key, value) VALUES (?, 'x')")
    with connection_thread.connect(cluster.url) as connection:
        db = PostgresDb(connection)
        for failures in range(5):
            for run in range(failures + 1):
                db.begin()
                if run < failures:
                    db.execute(Unread(f"SELECT 1 / ?::bigint AS x{failures}"), (0,))
                    db.execute(insert, ("never",))
                    with pytest.raises(psycopg.errors.DivisionByZero):
                        db.commit(None, then)
                    connection.execute("ROLLBACK")
            db.execute(insert, (f"t{failures}",))
            assert db.commit(None, then) == "COMMIT"
    found = cluster.execute("SELECT key FROM meta WHERE value = 'x' ORDER BY key")
    assert found == [(f"t{failures}",) for failures in range(5)]


async def test_what_is_cancelled_before_commit_is_known_not_to_be_committed(store: PostgresStore) -> None:
    """A statement that is sent with COMMIT takes longer than an administrator allows: nothing is in doubt."""

    def change(db: Db) -> tuple[None, Transitions]:
        transitions = [lifecycle.delete_job(db, done.job_id)]
        db.execute(Unread("SELECT pg_cancel_backend(pg_backend_pid())"))
        return None, transitions

    await store.add(SPEC)
    done = await store.claim(1, "t")
    await store.finish(done.job_id, done.token, ended(), *NOTHING)
    with pytest.raises(StoreUnavailable) as caught:
        await store._engine.change(change)
    assert not isinstance(caught.value, OutcomeUnknown)
    assert (await store.job(done.job_id)).state is State.DONE


LATE_ERROR = "SELECT 1 / ?::bigint FROM pg_sleep(0.05)"  # all that follows it has been sent by then


def test_a_statement_that_was_to_be_prepared_behind_an_error_is_prepared_later(cluster: Cluster) -> None:
    """psycopg counts it as prepared, and the server has skipped it."""
    insert = Unread("INSERT INTO meta (key, value) VALUES (?, 'x')")
    with connection_thread.connect(cluster.url) as connection:
        db = PostgresDb(connection)
        for _ in range(2):  # after which psycopg does not look at what a ROLLBACK means for it
            db.begin()
            connection.execute("ROLLBACK")

        def run(key: str, divisor: int) -> None:
            db.begin()
            db.execute(Unread(LATE_ERROR), (divisor,))
            db.execute(insert, (key,))
            db.commit(None, ("SELECT 1", ()))

        run("one", 1)
        run("two", 1)
        with pytest.raises(psycopg.errors.DivisionByZero):
            run("never", 0)
        connection.execute("ROLLBACK")
        run("three", 1)
    found = cluster.execute("SELECT key FROM meta WHERE value = 'x' ORDER BY key")
    assert found == [("one",), ("three",), ("two",)]


async def test_the_statements_of_a_claim_are_planned_once(cluster: Cluster, store: PostgresStore) -> None:
    """Planning pgqueuer's dequeue takes longer than executing it; no plan reads all rows, or all that is queued."""

    values = {"text[]": "'{x}'", "bigint[]": "'{1}'", "uuid": f"'{uuid.UUID(int=0)}'", "interval": "'1 day'"}

    def plans(db: Db) -> tuple[list[Any], list[str]]:
        found = db.execute(PREPARED).fetchall()
        explained = []
        for part in ("next_queued", "AS offer"):
            name, types = next((name, types) for name, sql, types, *_ in found if part in sql)
            explain = f"EXPLAIN EXECUTE {name} ({', '.join(values.get(each, '1') for each in types)})"
            explained.append("\n".join(line for (line,) in db.execute(explain).fetchall()))
        return found, explained

    for number in range(4):
        await store.add(SPEC)
        await store.add(SPEC)
        for keeper in range(2):
            claim = await store.claim(keeper, f"t{number}-{keeper}")
            await store.finish(claim.job_id, claim.token, ended(), *NOTHING)
    found, (dequeue, claim_plan) = await store._engine.write(plans)
    assert sum(generic for *_, generic, _ in found) > 10
    assert {custom for *_, custom in found} == {0}
    assert "Index Scan using pgqueuer_ep_prio_id_idx" in dequeue
    assert "Seq Scan on pgqueuer" not in dequeue
    assert "Index Scan using jobs_pkey on jobs" in claim_plan


@pytest.mark.heavy
async def test_a_statement_that_was_given_up_ends_at_the_server_too(cluster: Cluster) -> None:
    """Else each attempt would leave one behind that takes a core."""
    thread = connection_thread.PostgresThread(cluster.url, "test", timeout=0.3)
    loops = "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$"
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO $$ BEGIN LOOP%' AND state = 'active'"
    try:
        with pytest.raises(psycopg.Error):
            await thread.run(lambda it: it.connection.execute(loops))
        await until(lambda: cluster.execute(running) == [(0,)], what="the server has noticed")
    finally:
        thread.close()


async def test_a_server_that_does_not_answer_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that waits for ever ends with its connection, and the node goes on."""
    monkeypatch.setattr(connection_thread.PostgresThread.__init__, "__defaults__", ("", 0.3))
    async with cluster.node("one") as store:
        with pytest.raises(StoreUnavailable):
            await store._engine.write(lambda db: db.execute("SELECT pg_sleep(60)"))

        async def works() -> bool:
            try:
                await store.check()
            except StoreUnavailable:
                return False
            return True

        await until(works, what="the node works again")


@pytest.mark.heavy
async def test_counts_and_sizes_are_those_of_the_rows(cluster: Cluster) -> None:
    """After any changes by two nodes at once, the sums are what counting the rows says."""
    chance = random.Random(5)
    async with cluster.node("one") as one, cluster.node("two") as two:
        for number in range(60):
            store = chance.choice((one, two))
            job = await store.add(SPEC)
            if chance.random() < 0.3:
                await chance.choice((one, two)).request_cancel(job.id)
            elif chance.random() < 0.6:
                claim = await store.claim(1, f"t{number}")
                if chance.random() < 0.5:
                    await store.finish(claim.job_id, claim.token, ended(), *NOTHING)
                else:
                    await store.requeue(claim.job_id, claim.token)
            if chance.random() < 0.2:
                done = [each[0] for each in cluster.execute("SELECT id FROM jobs WHERE state = 'done'")]
                if done:
                    await chance.choice((one, two)).delete_job(chance.choice(done))
    totals = cluster.execute("SELECT sum(waiting), sum(queued), sum(running) FROM counts")[0]
    assert tuple(map(int, totals)) == tuple(
        cluster.execute("SELECT count(*) FROM jobs WHERE state = %s", state.value)[0][0]
        for state in (State.WAITING, State.QUEUED, State.RUNNING)
    )
    (done_jobs,) = cluster.execute("SELECT count(*) FROM jobs WHERE state = 'done'")[0]
    assert int(cluster.execute("SELECT sum(jobs) FROM sizes")[0][0]) == done_jobs


def test_migrate_refuses_what_it_does_not_know(cluster: Cluster) -> None:
    """A newer schema, and tables of another program, are left as they are; a current one is not changed."""
    assert schema.migrate(cluster.url) == (len(schema.MIGRATIONS), len(schema.MIGRATIONS))
    cluster.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    with pytest.raises(StoreUnavailable, match="newer"):
        schema.migrate(cluster.url)
    cluster.execute("DELETE FROM meta WHERE key = 'schema'")
    with pytest.raises(StoreUnavailable, match="another program"):
        schema.migrate(cluster.url)


def test_an_empty_database_is_named_with_the_remedy(cluster: Cluster) -> None:
    """A node that finds no tables says which command makes them."""
    cluster.execute("DROP TABLE meta, jobs CASCADE")
    with psycopg.connect(cluster.url) as connection, pytest.raises(StoreUnavailable, match="shellrunner migrate"):
        schema.check(connection)


@pytest.mark.parametrize(("syncs", "setting"), [(True, "on"), (False, "off")])
async def test_a_connection_waits_for_the_disk_unless_what_it_commits_may_be_lost(
    cluster: Cluster, syncs: bool, setting: str
) -> None:
    """Whatever the server's own setting is; the connection of notifications may lose them, and waits for nothing."""
    other = "off" if syncs else "on"
    cluster.execute(f"ALTER DATABASE {cluster.database} SET synchronous_commit = {other}")
    thread = connection_thread.PostgresThread(cluster.url, "test", syncs=syncs)
    try:
        shown = await thread.run(lambda it: it.connection.execute("SHOW synchronous_commit").fetchone())
    finally:
        thread.close()
    assert shown == (setting,)


async def test_a_server_that_does_not_answer_is_left_as_often_as_that_is(cluster: Cluster) -> None:
    """One call uses several connections, as when a batch is run one by one: each is broken after the timeout."""
    thread = connection_thread.PostgresThread(cluster.url, "test", timeout=0.3)

    def wait_often(connections: connection_thread.PostgresThread) -> int:
        broken = 0
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError):
                connections.connection.execute("SELECT pg_sleep(60)")
            broken += 1
        return broken

    try:
        assert await asyncio.wait_for(thread.run(wait_often), 20) == 3
    finally:
        thread.close()


async def test_a_server_that_stops_to_answer_while_it_is_connected_to_is_left(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first statements are not answered: the call fails after the timeout."""
    monkeypatch.setattr(connection_thread, "_SETTINGS", "SELECT pg_sleep(60)")
    thread = connection_thread.PostgresThread(cluster.url, "test", timeout=0.3)
    try:
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(thread.run(lambda connections: connections.connection), 20)
    finally:
        thread.close()
