"""A node that fails to open the history, and tries it again: nothing of an attempt is left."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shellrunner.errors import DatabaseLost
from shellrunner.store.postgres.effects.listener import Listener
from tests.support.nodes import Cluster
from tests.support.waiting import until

_END_SERVER = """CREATE FUNCTION end_server() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"""
_END_WHO_JOINS = "CREATE TRIGGER ending BEFORE INSERT ON hosts FOR EACH ROW EXECUTE FUNCTION end_server()"
# A server that accepts connections, and then does not answer.
_HANG = """CREATE SCHEMA hanging; CREATE FUNCTION hanging.pg_is_in_recovery() RETURNS boolean LANGUAGE sql
    AS 'SELECT pg_sleep(600) IS NULL'"""
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def counts(cluster: Cluster) -> tuple[int, int, int]:
    """Return how many descriptors and threads this process has, and how many connections the database."""
    ((connections,),) = cluster.execute(_CONNECTIONS)
    return len(os.listdir("/proc/self/fd")), threading.active_count(), connections


@pytest.mark.heavy
async def test_what_a_failed_opening_has_made_is_closed(cluster: Cluster) -> None:
    """However often it is repeated, no descriptor, thread or connection is left; then it succeeds."""
    cluster.execute(_END_SERVER)
    cluster.execute(_END_WHO_JOINS)

    async def fail() -> None:
        with pytest.raises(DatabaseLost):
            async with cluster.node("a"):
                pass

    await fail()  # what is made once in a process
    await until(lambda: counts(cluster)[2] == 0)
    before = counts(cluster)
    for _ in range(10):
        await fail()
    # A few threads more may be those of the event loop's executor, which are not used up yet.
    await until(
        lambda: all(now <= then + more for now, then, more in zip(counts(cluster), before, (0, 3, 0), strict=True)),
        what="all is closed",
    )
    cluster.execute("DROP TRIGGER ending ON hosts")
    async with cluster.node("a") as node:
        assert [host.name for host in await node.hosts.list()] == ["a"]


async def test_a_listener_that_gets_no_answer_holds_no_thread_of_the_executor(cluster: Cluster) -> None:
    """The end of the process would wait for that one."""
    cluster.execute(_HANG)
    cluster.execute(f"ALTER DATABASE {cluster.database} SET search_path = hanging, pg_catalog, public")
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    listener = Listener(cluster.url, ["channel"], lambda _: None, lambda: None)
    starting = asyncio.ensure_future(listener.start())
    await until(lambda: counts(cluster)[2] == 1, what="it is connected")
    starting.cancel()
    try:
        async with asyncio.timeout(10):
            await asyncio.to_thread(lambda: None)
    finally:
        stopping = asyncio.ensure_future(listener.stop())
        await until(lambda: cluster.server.terminate_connections(cluster.database) or stopping.done())
        await stopping
