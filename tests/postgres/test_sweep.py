"""Where every notification between nodes is lost, everything happens all the same, a little later."""

import asyncio

import pytest

from shellrunner.model import State
from shellrunner.store.postgres.effects import sweep
from shellrunner.store.postgres.effects.outbox import Outbox
from shellrunner.store.postgres.hosts import lease
from tests.postgres.racing import Nodes
from tests.support.histories import NOTHING, SPEC, ended
from tests.support.nodes import Cluster
from tests.support.waiting import until


@pytest.fixture
async def deaf(monkeypatch: pytest.MonkeyPatch, nodes: Nodes) -> Nodes:
    """Return two nodes that learn nothing from each other, and look often."""

    async def lose(self: Outbox) -> None:
        self._wake.clear()

    monkeypatch.setattr(Outbox, "flush", lose)
    monkeypatch.setattr(sweep, "_INTERVAL", 0.05)
    monkeypatch.setattr(sweep, "_LOOKS_PER_ROUND", 2)
    return nodes


@pytest.mark.heavy
async def test_a_job_waits_for_no_sweep_because_a_host_had_no_free_place(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it renewed its lease: a keeper that waits since then gets the job at once."""
    monkeypatch.setattr(sweep, "_INTERVAL", 3600.0)
    monkeypatch.setattr(lease, "INTERVAL", 3600.0)
    cluster.config["lease"] = 10 * 3600.0
    async with cluster.node("one", claims=False) as one, cluster.node("two") as two:
        await until(lambda: [peer.name for peer in one._parts.membership.peers], what="they know each other")
        for _ in range(3):
            waiting = asyncio.create_task(two.claim(1, "t"))
            await until(lambda: len(two._parts.waiting) == 1 and not two._parts.waiting.has_backlog)
            assert [peer.free for peer in one._parts.membership.peers] == [0]
            job = await one.add(SPEC)
            assert (await asyncio.wait_for(waiting, 20)).job_id == job.id
            await two.finish(job.id, "t", ended(), *NOTHING)


@pytest.mark.heavy
async def test_an_end_at_another_node_is_noticed(deaf: Nodes) -> None:
    """Who watches a job at one node sees its end, which the other one has recorded."""
    job = await deaf.one.add(SPEC)
    claim = await deaf.two.claim(1, "t")
    with deaf.one.watch(job.id) as subscription:
        assert await deaf.two.finish(claim.job_id, claim.token, ended(), *NOTHING)

        async def seen() -> bool:
            await subscription.wait()
            return (await deaf.one.job(job.id)).state is State.DONE

        await until(seen, 20, what="the end is seen")


@pytest.mark.heavy
async def test_a_request_to_cancel_reaches_the_host(deaf: Nodes) -> None:
    """The supervisor of the host looks again, although nobody has reported the request."""
    job = await deaf.one.add(SPEC)
    await deaf.two.claim(1, "t")
    with deaf.two.watch_cancel_requests() as subscription:
        await deaf.one.request_cancel(job.id)
        await asyncio.wait_for(subscription.wait(), 20)
        assert [claim.job_id for claim in await deaf.two.cancelling()] == [job.id]


@pytest.mark.heavy
async def test_a_queued_job_is_claimed(deaf: Nodes) -> None:
    """A keeper of one node waits, a job is queued by the other one: it gets it."""
    waiting = asyncio.create_task(deaf.two.claim(1, "t"))
    await deaf.settle()
    job = await deaf.one.add(SPEC)
    assert (await asyncio.wait_for(waiting, 20)).job_id == job.id
