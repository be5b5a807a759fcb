"""A node that fails to open the history, and tries it again: nothing of an attempt is left."""

import os
import threading

import pytest

from shellrunner.errors import DatabaseLost
from tests.support.nodes import Cluster
from tests.support.waiting import until

_END_SERVER = """CREATE FUNCTION end_server() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"""
_END_WHO_JOINS = "CREATE TRIGGER ending BEFORE INSERT ON hosts FOR EACH ROW EXECUTE FUNCTION end_server()"
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
