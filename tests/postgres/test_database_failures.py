"""What nodes do when PostgreSQL stops, does not answer a COMMIT, takes no writes any more, or is another server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from shellrunner.errors import NoSuchJob, StoreUnavailable
from shellrunner.model import Done, End, Ending, Job, JobSpec, Volume
from shellrunner.store import Head
from shellrunner.store.postgres import schema
from shellrunner.store.postgres.store import PostgresStore
from tests.support import postgres
from tests.support.nodes import Cluster
from tests.support.postgres import SUPERUSER, PostgresServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

SPEC = JobSpec(command="true")
TIMEOUT = 30.0
LEASE = 2.0
EXITED = End(Ending.EXITED, 2000, exit_code=0, started=1000, duration=0.5)

LOG_JUDGEMENTS = """CREATE TABLE judged (name text);
    CREATE FUNCTION log_judged() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO judged VALUES (NEW.name); RETURN NEW; END $$;
    CREATE TRIGGER log_judged AFTER UPDATE ON hosts FOR EACH ROW
    WHEN (NEW.unreachable IS NOT NULL) EXECUTE FUNCTION log_judged()"""
# While there is a row in `slow`, a commit of a claim takes a second; each one that is effective is in `claimed`.
SLOW_CLAIMS = """CREATE TABLE slow (yes int); CREATE TABLE claimed (job bigint, token text);
    CREATE FUNCTION wait_for_it() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO claimed VALUES (NEW.id, NEW.token);
        PERFORM pg_sleep(1) FROM slow; DELETE FROM slow; RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER wait_for_it AFTER INSERT OR UPDATE ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.state = 'running') EXECUTE FUNCTION wait_for_it()"""
COMMITTING = "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'"
PIDS = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND query = 'COMMIT'"
WRITERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid = ANY(%s)"


@contextmanager
def database(directory: Path, server: PostgresServer, **config: Any) -> Iterator[Cluster]:
    """Make a history on this server."""
    name = server.create_database()
    schema.migrate(server.url(name))
    yield Cluster(directory, server, name, {"lease": LEASE, "lost_after": None, **config})


async def claimed(store: PostgresStore, token: str) -> Job:
    """Add a job and claim it."""
    claim = asyncio.ensure_future(store.claim(1, token))
    job = await store.add(SPEC)
    assert (await asyncio.wait_for(claim, TIMEOUT)).job_id == job.id
    return job


async def ending(store: PostgresStore, job: Job) -> End | None:
    """Return how the job ended."""
    phase = (await store.job(job.id)).phase
    return phase.end if isinstance(phase, Done) else None


@pytest.mark.heavy
async def test_nobody_is_judged_after_a_stop_of_the_database(tmp_path: Path) -> None:
    """It is away for longer than a lease: all nodes are back before one is judged, and what ran ends as it did."""
    with postgres.server() as server, database(tmp_path, server) as cluster:
        cluster.execute(LOG_JUDGEMENTS)
        async with cluster.node("a") as one, cluster.node("b") as two:
            job = await claimed(one, "t")
            await asyncio.sleep(LEASE)  # so that both have had their leases for that long, and might judge
            await asyncio.to_thread(server.stop, "immediate")
            with pytest.raises(StoreUnavailable):
                await two.add(SPEC)
            await asyncio.sleep(1.5 * LEASE)
            with pytest.raises(StoreUnavailable):
                await one.finish(job.id, "t", EXITED, Volume(), Head())
            await asyncio.to_thread(server.start)

            async def recorded() -> bool:
                try:
                    return await one.finish(job.id, "t", EXITED, Volume(), Head())
                except StoreUnavailable:
                    return False

            await until(recorded, TIMEOUT)
            await asyncio.sleep(2 * LEASE)
            assert await ending(two, job) == EXITED
            assert cluster.execute("SELECT name FROM judged") == []
            await claimed(one, "t2")  # so that it is not `stopped`
        # That there is a judge at all: a host that does not come back is judged.
        async with cluster.node("b"):
            await until(lambda: ("a",) in cluster.execute("SELECT name FROM judged"), TIMEOUT)


@pytest.mark.heavy
async def test_a_claim_whose_commit_was_not_answered_is_put_back(tmp_path: Path) -> None:
    """It took effect, and no keeper was given it: soon after the connection is back the job is claimed again."""
    with postgres.server(listen="127.0.0.1") as server, database(tmp_path, server) as cluster:
        cluster.execute(SLOW_CLAIMS)
        async with TcpProxy(f"http://127.0.0.1:{server.port}") as proxy:
            through = server.url(cluster.database, tcp=True).replace(str(server.port), proxy.url.rpartition(":")[2])
            async with cluster.node("b", claims=False) as two, cluster.node("a", url=through) as one:
                claim = asyncio.ensure_future(one.claim(7, "t"))
                cluster.execute("INSERT INTO slow VALUES (1)")
                job = await two.add(SPEC)
                await until(lambda: server.execute(COMMITTING) == [(1,)], TIMEOUT)
                proxy.cut()
                assert (await asyncio.wait_for(claim, TIMEOUT)).job_id == job.id
                assert cluster.execute("SELECT job, token FROM claimed") == [(job.id, "t")] * 2
                assert await one.finish(job.id, "t", EXITED, Volume(), Head())
                assert await ending(two, job) == EXITED
                assert await two.queues() == await one.queues()


@pytest.mark.heavy
async def test_a_failover_to_a_replica_that_lagged_behind_runs_nothing_twice(tmp_path: Path) -> None:
    """What was started, and has ended, as only the old server knows, is lost; then jobs run, with new ids."""
    with postgres.server() as primary, database(tmp_path, primary) as cluster:
        replica = await asyncio.to_thread(primary.replica)
        try:
            both = ",".join(quote(str(each.socket_directory), safe="") for each in (primary, replica))
            url = f"postgresql://{SUPERUSER}:{primary.password}@/{cluster.database}?host={both}&port=5432,5432"
            async with cluster.node("a", url=url) as one:
                ended = await claimed(one, "ended")
                still_running = await claimed(one, "running")
                unstarted = await one.add(SPEC)
                await asyncio.to_thread(replica.wait_for_replay, primary)
                await asyncio.to_thread(replica.stop_receiving)
                assert await one.finish(ended.id, "ended", EXITED, Volume(), Head())
                assert (await asyncio.wait_for(one.claim(3, "twice?"), TIMEOUT)).job_id == unstarted.id
                forgotten = await claimed(one, "forgotten")
                await asyncio.to_thread(primary.kill)
                await asyncio.to_thread(replica.promote)

                async def all_lost() -> bool:
                    try:
                        ends = [await ending(one, job) for job in (ended, unstarted)]
                    except StoreUnavailable:
                        return False
                    return all(end is not None and end.ending is Ending.LOST for end in ends)

                claim = asyncio.ensure_future(one.claim(4, "later"))
                await until(all_lost, TIMEOUT)
                with pytest.raises(NoSuchJob):
                    await one.job(forgotten.id)
                fresh = await one.add(SPEC)
                assert fresh.id > forgotten.id
                assert (await asyncio.wait_for(claim, TIMEOUT)).job_id == fresh.id
                assert await one.finish(still_running.id, "running", EXITED, Volume(), Head())
                assert await ending(one, still_running) == EXITED
        finally:
            replica.end()


@pytest.mark.heavy
async def test_nobody_claims_at_another_server_for_the_time_of_a_lease(tmp_path: Path) -> None:
    """Other nodes have that time to refuse what they have started: a claim waits, though a job is queued."""
    with postgres.server() as server, database(tmp_path, server) as cluster:
        async with cluster.node("a"):
            pass
        ((known,),) = cluster.execute("SELECT value FROM meta WHERE key = 'server'")
        assert known.count("/") == 1
        cluster.execute("UPDATE meta SET value = 'another/00000001' WHERE key = 'server'")
        async with cluster.node("a") as one:
            job = await one.add(SPEC)
            assert (await asyncio.wait_for(one.claim(1, "t"), TIMEOUT)).job_id == job.id
            ((waited,),) = cluster.execute(
                "SELECT claims_after.value::bigint <= jobs.claimed FROM jobs, meta AS claims_after "
                "WHERE claims_after.key = 'claims_after'"
            )
            assert waited


@pytest.mark.heavy
async def test_a_node_without_a_journal_gives_no_id_again_at_another_server(tmp_path: Path) -> None:
    """Jobs are refused until some node has followed the change, and ids continue far above those that were given."""
    with postgres.server() as server, database(tmp_path, server) as cluster:
        async with cluster.node("a", claims=False) as one:
            forgotten = await one.add(SPEC)
            cluster.execute("DELETE FROM jobs")
            cluster.execute("SELECT setval('jobs_id_seq', ?, false)".replace("?", str(forgotten.id)))

            async def refused() -> bool:
                cluster.execute("UPDATE meta SET value = 'another/00000001' WHERE key = 'server'")
                try:
                    await one.add(SPEC)
                except StoreUnavailable as error:
                    return "another PostgreSQL server" in str(error)
                return False  # the node has followed it between the two statements

            await until(refused, TIMEOUT)

            async def accepted() -> int | None:
                try:
                    return (await one.add(SPEC)).id
                except StoreUnavailable:
                    return None

            assert await until(accepted, TIMEOUT) > forgotten.id + 1_000_000
            assert (await one.add(SPEC)).id == (await one.add(SPEC)).id - 1


@pytest.mark.heavy
async def test_a_server_that_takes_no_writes_any_more_is_left(tmp_path: Path) -> None:
    """The connection is given up, so that another server can be found; when it takes writes again, they go on."""
    with postgres.server() as server, database(tmp_path, server) as cluster:
        async with cluster.node("a") as one:
            await one.add(SPEC)
            writers = [pid for (pid,) in cluster.execute(PIDS, cluster.database)]
            assert writers
            server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            server.execute("SELECT pg_reload_conf()")

            async def refused() -> bool:
                try:
                    await one.add(SPEC)
                except StoreUnavailable as error:
                    return "read-only" in error.detail
                return False

            await until(refused, TIMEOUT)
            await until(lambda: cluster.execute(WRITERS, cluster.database, writers) == [(0,)], TIMEOUT)
            server.execute("ALTER SYSTEM RESET default_transaction_read_only")
            server.execute("SELECT pg_reload_conf()")

            async def accepted() -> bool:
                try:
                    await one.add(SPEC)
                except StoreUnavailable:
                    return False
                return True

            await until(accepted, TIMEOUT)
