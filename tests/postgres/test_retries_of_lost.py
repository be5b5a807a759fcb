"""Jobs that are started again if they are lost: another attempt follows, for whatever reason one is lost."""

import asyncio
from pathlib import Path

import pytest

from shellrunner.model import Claim, Done, End, Ending, Found, JobSpec, State, Volume
from shellrunner.store import Head, SlotClaim
from shellrunner.store.postgres.hosts.after_restore import declare_restored
from shellrunner.store.postgres.store import PostgresStore
from tests.support import nodes
from tests.support.nodes import Cluster
from tests.support.waiting import until

SPEC = JobSpec.model_validate({"command": "true", "retries": {"max": 1, "on": ["lost"]}})
TIMEOUT = 20.0
LEASE = 1.0
EXITED = End(Ending.EXITED, 2000, exit_code=3, started=1000, duration=0.5)
FORGET = "UPDATE jobs SET state = 'queued', keeper = NULL, token = NULL, claimed = NULL WHERE id = %s"
COUNT_QUEUED = "UPDATE counts SET running = running - 1, queued = queued + 1 WHERE node = %s"


@pytest.fixture
def cluster(tmp_path: Path) -> object:
    """Yield a history whose leases are short, and whose jobs are given up soon."""
    with nodes.cluster(tmp_path, lease=LEASE, lost_after=2 * LEASE) as made:
        yield made


async def claim(store: PostgresStore, token: str) -> Claim:
    """Claim a job under this token."""
    return await asyncio.wait_for(store.claim(1, token), TIMEOUT)


async def lost_attempt(store: PostgresStore, job_id: int) -> Done:
    """Return how the first attempt ended, once the second one has begun or is due."""

    async def is_over() -> bool:
        return (await store.job(job_id)).attempt == 2

    await until(is_over)
    done = await store.attempt(job_id, 1)
    assert done.end.ending is Ending.LOST
    return done


@pytest.mark.heavy
async def test_a_job_of_a_host_that_stays_away_is_claimed_again(cluster: Cluster) -> None:
    """After `lost_after`, by another host, once; what the first witness reports changes its attempt only, once."""
    async with cluster.node("b", claims=False) as api:
        async with cluster.node("a") as one:
            job = await one.add(SPEC)
            await claim(one, "t")
            cancelled = await one.add(SPEC)
            await claim(one, "c")
            await one.request_cancel(cancelled.id)
        lost = await lost_attempt(api, job.id)
        assert (lost.end.detail, lost.host) == (
            "host a was unreachable for 2 s while it ran; its end was not seen",
            "a",
        )

        async def is_cancelled() -> bool:
            return (await api.job(cancelled.id)).done

        await until(is_cancelled)  # it is lost, and wanted no more
        async with cluster.node("c") as two:
            again = await claim(two, "u")
            assert (again.job_id, again.attempt) == (job.id, 2)
            ended = [SlotClaim(job.id, "t", 7), SlotClaim(job.id, "u", 8), SlotClaim(99, "t", 9)]
            found = await two.lost_claims(lambda: ended)
            assert [(each.job_id, each.token, each.keeper, each.attempt) for each in found] == [(job.id, "t", 7, 1)]
            assert await api.finish(job.id, "t", End(Ending.LOST, 5000, detail="gone"), Volume(), Head())
            assert (await api.attempt(job.id, 1)).found is None
            for _ in range(2):  # the second time it is known
                assert await api.finish(job.id, "t", EXITED, Volume(2, 1), Head(b"hi\n", b""), next_attempt_at=0)
            other = End(Ending.EXITED, 3000, exit_code=0, started=1000, duration=0.5)
            assert not await api.finish(job.id, "t", other, Volume(), Head())
            assert not await api.finish(job.id, "another", other, Volume(), Head())
            first = await api.attempt(job.id, 1)
            assert first.found == Found(Ending.EXITED, 2000, exit_code=3)
            assert first.volume == Volume()  # where the second one begins does not change
            assert await two.lost_claims(lambda: ended) == []
            running = await two.job(job.id)
            assert (running.state, running.attempt, running.host) == (State.RUNNING, 2, "c")
            assert await two.finish(job.id, "u", EXITED, Volume(), Head())
            done = (await api.job(job.id)).phase
            assert isinstance(done, Done)
            assert (done.end, done.found) == (EXITED, None)
            assert (await api.attempt(job.id, 1)).found == first.found
            assert sum(queue.running + queue.queued for queue in (await two.queues()).queues) == 0


@pytest.mark.heavy
async def test_an_attempt_that_the_database_has_forgotten_is_lost_at_its_claim(cluster: Cluster) -> None:
    """The node that has started it claims the next attempt instead."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        await claim(one, "t")
        cluster.execute(FORGET, job.id)
        cluster.execute(COUNT_QUEUED, "a")
        again = await claim(one, "u")
        assert (again.job_id, again.attempt) == (job.id, 2)
        assert "forgotten" in ((await one.attempt(job.id, 1)).end.detail or "")


@pytest.mark.heavy
async def test_an_attempt_that_another_epoch_does_not_know_is_lost(cluster: Cluster) -> None:
    """Before anything is claimed; a job that has no attempt left is lost for good."""
    async with cluster.node("a") as one:
        job, last = await one.add(SPEC), await one.add(JobSpec(command="true"))
        assert {(await claim(one, "t")).job_id, (await claim(one, "v")).job_id} == {job.id, last.id}
        for each in (job.id, last.id):
            cluster.execute(FORGET, each)
            cluster.execute(COUNT_QUEUED, "a")
        cluster.execute("UPDATE meta SET value = '2' WHERE key = 'epoch'")
        again = asyncio.ensure_future(one.claim(1, "u"))
        await lost_attempt(one, job.id)
        assert ((await asyncio.wait_for(again, TIMEOUT)).job_id, again.result().attempt) == (job.id, 2)

        async def is_lost() -> bool:
            return (await one.job(last.id)).done

        await until(is_lost)


@pytest.mark.heavy
async def test_a_restore_starts_it_again_only_after_an_admin_has_resumed(cluster: Cluster) -> None:
    """It is queued, as whatever was queued then, and held."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        await claim(one, "t")
        assert (await asyncio.to_thread(declare_restored, cluster.url)).lost == 1
        await lost_attempt(one, job.id)
        again = asyncio.ensure_future(one.claim(1, "u"))
        assert (await one.queues()).held is not None
        assert not again.done()
        await one.pause(None, paused=False)
        assert (await asyncio.wait_for(again, TIMEOUT)).attempt == 2
