"""A node that is closed while something else happens: when it is `stopped`, and what follows from that."""

import asyncio
import logging

import psycopg
import pytest

from shellrunner.model import JobSpec, State
from shellrunner.store.db import Db
from shellrunner.store.postgres.hosts import losing
from shellrunner.store.postgres.store import PostgresStore
from shellrunner.store.transition import Transitions
from tests.support.nodes import Cluster
from tests.support.waiting import until

SPEC = JobSpec(command="true")
TIMEOUT = 10.0
_LOCKED = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
_CLAIM = "UPDATE jobs SET state = 'running', host = 'a', token = 'lost', keeper = 1, claimed = 1 WHERE id = %s"
_LOCK_NODE = "SELECT pg_advisory_xact_lock_shared(x'536B'::int, hashtext('a'))"

_LAST_NOTE = """SELECT pg_notify('shellrunner_nodes', '{"from": "last", "flags": ["leaving"]}')"""


def stopped(cluster: Cluster) -> dict[str, bool]:
    """Return which hosts are stopped."""
    return dict(cluster.execute("SELECT name, stopped FROM hosts"))


async def open_briefly(cluster: Cluster) -> None:
    """Open the history at a node, and close it at once."""
    async with cluster.node("a"):
        pass


@pytest.mark.heavy
async def test_a_claim_that_is_still_being_committed_is_seen(cluster: Cluster) -> None:
    """Its connection was lost, the server is at its COMMIT yet: the host is not stopped, as it has that job."""
    async with cluster.node("b", claims=False) as two:
        job = await two.add(SPEC)
        async with asyncio.timeout(TIMEOUT):
            with psycopg.connect(cluster.url) as lost:
                async with cluster.node("a", claims=False):
                    lost.execute(_LOCK_NODE)
                    lost.execute(_CLAIM, (job.id,))
                    committing = asyncio.ensure_future(commit_when_awaited(cluster, lost))
                await committing
        assert (await two.job(job.id)).state is State.RUNNING
        assert stopped(cluster)["a"] is False


async def commit_when_awaited(cluster: Cluster, connection: psycopg.Connection) -> None:
    """Commit once somebody waits for the transaction, or has gone without waiting."""
    await until(lambda: cluster.execute(_LOCKED) or stopped(cluster)["a"])
    connection.commit()


@pytest.mark.heavy
async def test_a_host_where_a_lost_job_may_run_on_is_not_stopped(cluster: Cluster) -> None:
    """Nobody has seen its command end: that is no planned stop, as long as it is so."""
    async with cluster.node("b", claims=False) as two:
        async with cluster.node("a") as one:
            await two.add(SPEC)
            await asyncio.wait_for(one.claim(1, "t"), TIMEOUT)
            await lose(two, "a")
        assert stopped(cluster)["a"] is False
        cluster.execute("DELETE FROM unsettled")
        await open_briefly(cluster)
        assert stopped(cluster)["a"] is True


async def lose(store: PostgresStore, host: str) -> None:
    """Declare lost what runs on this host."""

    def judged(db: Db) -> tuple[Transitions, Transitions]:
        transitions = losing.lose(db, host, "it was unreachable", 1500)
        return transitions, transitions

    assert await store._engine.change(judged, store._effects.committed)


async def test_the_name_of_a_stopped_host_is_free(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Another server, in another directory, has it at once: nothing is lost by that, and nothing to be waited for."""
    caplog.set_level(logging.WARNING)
    await open_briefly(cluster)
    assert stopped(cluster) == {"a": True}
    async with cluster.node("a", directory="another") as node:
        await asyncio.wait_for(node.check(), TIMEOUT)
        assert stopped(cluster) == {"a": False}
        assert [host.reachable for host in await node.hosts.list()] == [True]
    assert "waiting until its lease expires" not in caplog.text


async def test_a_node_that_is_closed_before_it_is_open_is_stopped(cluster: Cluster) -> None:
    """As systemd may stop a service while it starts: that it has joined is no reason for an alarm."""
    with psycopg.connect(cluster.url) as locking:
        locking.execute("LOCK TABLE paused")
        opening = asyncio.ensure_future(open_briefly(cluster))
        await until(lambda: stopped(cluster) == {"a": False} and cluster.execute(_LOCKED))
        opening.cancel()
        await until(lambda: stopped(cluster)["a"], what="it says that it is stopped")
        locking.rollback()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(opening, TIMEOUT)


@pytest.mark.heavy
async def test_a_server_that_has_lost_its_name_reports_nothing_of_the_one_that_has_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is not that of its host: the others send orders there, and it is not stopped."""
    async with cluster.node("b", claims=False) as two:
        membership = two._parts.membership
        async with cluster.node("a") as one:
            lease = one._parts.membership._lease
            await until(lambda: lease.peers and membership.peers, what="they know each other")
            cluster.execute("UPDATE hosts SET incarnation = 'another', seen = seen + interval '1 s' WHERE name = 'a'")
            await until(lambda: not lease.is_current, what="it has lost its name")
            left: list[str] = []
            monkeypatch.setattr(membership, "left", left.append)
        cluster.execute(_LAST_NOTE)  # they come in the order in which they were sent
        await until(lambda: left, what="the last notification is there")
        assert (left, stopped(cluster)["a"]) == (["last"], False)


@pytest.mark.heavy
async def test_a_host_that_is_restarted_keeps_its_name(cluster: Cluster) -> None:
    """Also if a server runs on that had it before: that one takes it only once the lease has expired."""
    async with cluster.node("a") as one:
        lease = one._parts.membership._lease
        cluster.execute("UPDATE hosts SET incarnation = 'another', seen = seen + interval '1 s'")
        await until(lambda: not lease.is_current, what="it has lost its name")
        cluster.execute("UPDATE hosts SET stopped = true, unreachable = clock_timestamp()")
        await lease.renew(lambda *_: asyncio.sleep(0), lambda: None)
        assert cluster.execute("SELECT incarnation FROM hosts") == [("another",)]
        cluster.execute("UPDATE hosts SET seen = seen - interval '1 minute'")
        await until(lambda: lease.is_current, what="it has its name again")


async def test_a_renewal_that_is_under_way_does_not_revoke_that_it_is_stopped(cluster: Cluster) -> None:
    """It finds that the host was removed, and would add it again: but the node has left meanwhile."""
    async with cluster.node("a") as one:
        lease = one._parts.membership._lease
        cluster.execute("DELETE FROM hosts")
        renewing = asyncio.ensure_future(lease.renew(lambda *_: asyncio.sleep(0), lambda: None))
        await asyncio.sleep(0)
        await lease.leave()
        await asyncio.wait_for(renewing, TIMEOUT)
        assert stopped(cluster) == {}
