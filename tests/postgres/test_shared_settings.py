"""Settings that all nodes must have in common: each node finds out, logs once and lists which others differ."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from shellrunner.store import QueueLimit, QueueLimits, SubmitterLimit
from shellrunner.store.postgres.store import PostgresStore
from tests.support import nodes
from tests.support.nodes import Cluster
from tests.support.waiting import until

LIMITS = QueueLimits(100, {"default": QueueLimit(3, None)}, {"token:ci": SubmitterLimit(1, 2)})
COPY = """INSERT INTO hosts (name, incarnation, boot, home, version, queues, claims, slots, free, draining,
    joined, seen, settings) SELECT %s, incarnation, boot, home, version, queues, claims, slots, free, draining,
    joined, seen, %s FROM hosts WHERE name = 'a'"""
DIFFERS = "settings of another host differ"


@pytest.fixture
def cluster(tmp_path: Path) -> object:
    """Yield a history whose leases are short."""
    with nodes.cluster(tmp_path, lease=1.0) as made:
        yield made


async def differing(store: PostgresStore) -> dict[str, Sequence[str]]:
    """Return what each node has that differs from this one."""
    return {host.name: host.differing for host in await store.hosts.list()}


async def renewed(store: PostgresStore, times: int) -> None:
    """Wait until the lease was renewed so often: each time it reads the rows of all."""
    lease = store._parts.membership._lease
    for _ in range(times):
        before = lease.rows
        await until(lambda: lease.rows is not before)  # noqa: B023  it is awaited here


@pytest.mark.heavy
async def test_a_node_with_other_limits_is_named(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Logged once for each change, listed as long as it is so; a reload counts; nodes that agree are not named."""
    caplog.set_level(logging.WARNING)

    def reports() -> list[Sequence[str]]:
        return [getattr(each, "settings") for each in caplog.records if each.message.startswith(DIFFERS)]  # noqa: B009

    async with cluster.node("a", queues=LIMITS) as one, cluster.node("b", queues=LIMITS) as two:
        await asyncio.gather(renewed(one, 3), renewed(two, 3))
        assert await differing(one) == {"a": (), "b": ()}
        assert reports() == []
        two.limit_submitters({"token:ci": SubmitterLimit(9, 2)})

        async def is_listed() -> bool:
            return await differing(one) == {"a": (), "b": ("tokens",)}

        await until(is_listed)
        await asyncio.gather(renewed(one, 3), renewed(two, 3))
        assert reports() == [["tokens"]] * 2  # at each of the two
        two.limit_submitters(LIMITS.submitters)

        async def agrees() -> bool:
            return await differing(one) == {"a": (), "b": ()}

        await until(agrees)
    async with cluster.node("a", queues=LIMITS) as one, cluster.node("b", queues=QueueLimits(99)) as two:
        assert (await differing(two))["a"] == ("queues", "tokens")


async def test_a_node_that_publishes_nothing_is_not_named(cluster: Cluster) -> None:
    """As one of a version that knows fewer settings."""
    async with cluster.node("a", queues=LIMITS) as one:
        for name, settings in (("c", ""), ("d", '{"tokens": "x"}')):
            cluster.execute(COPY, name, settings)
        assert await differing(one) == {"a": (), "c": (), "d": ("tokens",)}
