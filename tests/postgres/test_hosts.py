"""Hosts of a history in PostgreSQL, as clients list, drain, resume and remove them."""

import asyncio
from pathlib import Path

import pytest

from shellrunner.errors import HostReachable, NoSuchHost, OnlyHost
from shellrunner.model import Done, Ending, JobSpec, Running
from shellrunner.store import Retention
from shellrunner.store.hosts import ThisHost
from shellrunner.store.sqlite import composition as sqlite
from tests.support.nodes import Cluster
from tests.support.waiting import until

SPEC = JobSpec(command="true")
TIMEOUT = 10.0


@pytest.mark.heavy
async def test_each_node_is_listed_at_every_node(cluster: Cluster) -> None:
    """A host is listed with what config says of it, and each node says of itself that it is the one that answers."""
    async with cluster.node("a", slots=3) as one, cluster.node("b", queues=None, claims=False) as two:
        at_one, at_two = await one.hosts.list(), await two.hosts.list()
    assert [(each.name, each.is_this, each.slots, each.claims) for each in at_one] == [
        ("a", True, 3, True),
        ("b", False, 8, False),
    ]
    assert [each.is_this for each in at_two] == [False, True]
    assert all(each.reachable for each in at_one)


@pytest.mark.heavy
async def test_a_host_that_was_stopped_is_woken_no_more(cluster: Cluster) -> None:
    """The others know at once that it starts no jobs, though its lease lasts for some seconds yet."""
    async with cluster.node("a", claims=False) as one:
        async with cluster.node("b") as two:
            claims = [asyncio.ensure_future(two.claim(number, f"t{number}")) for number in range(3)]
            await until(lambda: [peer.free for peer in one._parts.membership.peers] == [3], what="it is known")
        await asyncio.gather(*claims, return_exceptions=True)
        await until(lambda: not one._parts.membership.peers, 5, what="it is not chosen any more")
        await one._parts.membership._lease.renew(lambda *_: asyncio.sleep(0), lambda: None)
        assert [host.name for host in await one.hosts.list()] == ["a", "b"]
        assert one._parts.membership.peers == []


@pytest.mark.heavy
async def test_a_drained_host_claims_nothing_until_it_is_resumed(cluster: Cluster) -> None:
    """After `drain` returned at another node nothing is claimed; after `resume` the same claim is served."""
    async with cluster.node("a") as one, cluster.node("b", claims=False) as two:
        assert (await two.hosts.drain("a")).draining
        claim = asyncio.ensure_future(one.claim(1, "token"))
        job = await two.add(SPEC)
        other = await two.add(SPEC)
        await one.request_cancel(other.id)  # its batch would have served the claim
        assert (await two.job(job.id)).state == "queued"
        assert not (await two.hosts.resume("a")).draining
        assert (await asyncio.wait_for(claim, TIMEOUT)).job_id == job.id


@pytest.mark.heavy
async def test_a_drain_is_kept_over_a_restart_of_its_server(cluster: Cluster) -> None:
    """A node that is opened again under a drained name is still draining."""
    async with cluster.node("a") as one:
        await one.hosts.drain("a")
    async with cluster.node("a") as one:
        assert [each.draining for each in await one.hosts.list()] == [True]


@pytest.mark.heavy
async def test_only_a_host_that_is_not_reachable_is_removed_and_its_running_jobs_are_lost(cluster: Cluster) -> None:
    """A reachable host is not removed; one whose lease has expired is, and what it ran is `lost`, once."""
    async with cluster.node("b", claims=False) as two:
        async with cluster.node("a") as one:
            jobs = [await one.add(SPEC) for _ in range(3)]
            for number in range(3):
                await asyncio.wait_for(one.claim(number, f"token {number}"), TIMEOUT)
            with pytest.raises(HostReachable):
                await two.hosts.remove("a")
            assert [each.running for each in await two.hosts.list()] == [3, 0]
            assert [each.host for each in await two.jobs(job.id for job in jobs)] == ["a"] * 3
        cluster.expire("a")
        assert [each.reachable for each in await two.hosts.list()] == [False, True]
        assert await two.hosts.remove("a") == 3
        assert [each.name for each in await two.hosts.list()] == ["b"]
        for job in await two.jobs(job.id for job in jobs):
            assert isinstance(job.phase, Done)
            assert job.phase.end.ending is Ending.LOST
            assert job.phase.end.detail == "host a was removed while it ran; its end was not seen"
        with pytest.raises(NoSuchHost):
            await two.hosts.remove("a")


async def test_an_accepted_job_is_returned_as_it_is_read(cluster: Cluster) -> None:
    """With its host, whether it was claimed in the same commit or not."""
    async with cluster.node("a") as one:
        queued = await one.add(SPEC)
        assert queued == await one.job(queued.id)
        await asyncio.wait_for(one.claim(1, "token"), TIMEOUT)
        claim = asyncio.ensure_future(one.claim(2, "token 2"))
        await asyncio.sleep(0)
        running = await one.add(SPEC)
        assert running == await one.job(running.id)
        assert (running.host, (await claim).job_id) == ("a", running.id)


@pytest.mark.heavy
async def test_the_host_of_a_running_job_that_was_judged_unreachable_is_named(cluster: Cluster) -> None:
    """A running job names its host as unreachable once that was judged, and since when."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        await asyncio.wait_for(one.claim(1, "token"), TIMEOUT)
        phase = (await one.job(job.id)).phase
        assert isinstance(phase, Running)
        assert phase.unreachable is None
    cluster.execute("UPDATE hosts SET unreachable = to_timestamp(12)")
    async with cluster.node("b") as two:
        phase = (await two.job(job.id)).phase
        assert isinstance(phase, Running)
        assert phase.unreachable == ("a", 12_000)


async def test_a_history_in_sqlite_has_one_host_that_cannot_be_drained(tmp_path: Path) -> None:
    """It is listed as itself; the error says what to do instead of draining it."""
    async with sqlite.open_store(tmp_path, Retention(), host=ThisHost("here", "1", 4)) as store:
        await store.add(SPEC)
        await asyncio.wait_for(store.claim(1, "token"), TIMEOUT)
        (host,) = await store.hosts.list()
        assert (host.name, host.running, host.free, host.is_this, host.reachable) == ("here", 1, 3, True, True)
        with pytest.raises(OnlyHost, match="pause all queues"):
            await store.hosts.drain("here")
        with pytest.raises(NoSuchHost):
            await store.hosts.drain("there")
        assert (await store.job(1)).host is None
