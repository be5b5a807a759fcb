"""Hosts that are away: what they run is unreachable, then lost, and a witness that returns is believed once."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shellrunner.errors import StoreUnavailable
from shellrunner.model import Done, End, Ending, Found, Job, JobSpec, Running, Volume
from shellrunner.store import Head
from shellrunner.store.postgres.hosts import judge
from shellrunner.store.postgres.store import PostgresStore
from tests.support import nodes
from tests.support.nodes import Cluster

SPEC = JobSpec(command="true")
TIMEOUT = 20.0
LEASE = 1.0
EXITED = End(Ending.EXITED, 2000, exit_code=3, started=1000, duration=0.5)


@pytest.fixture
def cluster(tmp_path: Path) -> object:
    """Yield a history whose leases are short."""
    with nodes.cluster(tmp_path, lease=LEASE, lost_after=None) as made:
        yield made


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(TIMEOUT):
        while not await condition():
            await asyncio.sleep(0.02)


async def claimed(store: PostgresStore, token: str, spec: JobSpec = SPEC) -> Job:
    """Add a job and claim it."""
    claim = asyncio.ensure_future(store.claim(1, token))
    job = await store.add(spec)
    assert (await asyncio.wait_for(claim, TIMEOUT)).job_id == job.id
    return job


def is_unreachable(job: Job) -> bool:
    """Return whether the job runs on a host that is."""
    return isinstance(job.phase, Running) and job.phase.unreachable is not None


@pytest.mark.heavy
async def test_a_dead_hosts_jobs_stay_running_and_its_unclaimed_ones_move_on(cluster: Cluster) -> None:
    """Once its lease has expired, what it ran names it as unreachable; what it had not claimed runs elsewhere."""
    async with cluster.node("b") as two:
        async with cluster.node("a") as one:
            job = await claimed(one, "t")
            waiting = await one.add(SPEC)
        with two.watch(job.id) as subscription:
            while not is_unreachable(await two.job(job.id)):  # a notification may also be a late one of its start
                await asyncio.wait_for(subscription.wait(), TIMEOUT)
        phase = (await two.job(job.id)).phase
        assert isinstance(phase, Running)
        assert phase.unreachable is not None
        assert phase.unreachable.host == "a"
        assert [each.reachable for each in await two.hosts.list()] == [False, True]
        assert (await asyncio.wait_for(two.claim(1, "u"), TIMEOUT)).job_id == waiting.id
        assert (await two.job(job.id)).state == "running"


@pytest.mark.heavy
async def test_a_host_that_returns_goes_on_and_its_claims_were_not_given_away(cluster: Cluster) -> None:
    """Its running job is reachable again, others learn of it, and its end is the one that it records."""
    async with cluster.node("b") as two:
        async with cluster.node("a") as one:
            job = await claimed(one, "t")

        async def judged() -> bool:
            return is_unreachable(await two.job(job.id))

        async def returned() -> bool:
            return not await judged()

        await eventually(judged)
        async with cluster.node("a") as one:
            await eventually(returned)
            assert [claim.token for claim in await one.running()] == ["t"]
            assert await one.finish(job.id, "t", EXITED, Volume(), Head())
        phase = (await two.job(job.id)).phase
        assert isinstance(phase, Done)
        assert phase.end == EXITED


@pytest.mark.heavy
async def test_jobs_of_a_host_that_stays_away_are_lost_with_all_consequences(tmp_path: Path) -> None:
    """After `lost_after` its jobs are `lost`, in several batches, once each, and what waits for one is skipped."""
    with nodes.cluster(tmp_path, lease=LEASE, lost_after=2 * LEASE) as cluster:
        async with cluster.node("b") as two:
            async with cluster.node("a", slots=300) as one:
                ids = [(await claimed(one, f"t{number}")).id for number in range(120)]
                follower = await one.add(JobSpec(command="true", after=(ids[0],)))

            async def all_done() -> bool:
                return all(job.done for job in await two.jobs([*ids, follower.id]))

            await eventually(all_done)
            for job in await two.jobs(ids):
                assert isinstance(job.phase, Done)
                assert job.phase.end.detail == "host a was unreachable for 2 s while it ran; its end was not seen"
                assert job.phase.end.ending is Ending.LOST
            assert two.endings["default", Ending.LOST] == 120
            assert two.endings["default", Ending.SKIPPED] == 1
            assert sum(queue.running for queue in (await two.queues()).queues) == 0
            assert (await two.size()).jobs == 121


AWAY = """INSERT INTO hosts (name, incarnation, boot, home, version, claims, slots, free, seen, unreachable)
    VALUES ('c', '', '', '', '', true, 0, 0, clock_timestamp() - interval '1 h', clock_timestamp())"""


@pytest.mark.heavy
async def test_a_clock_that_was_set_loses_no_job(tmp_path: Path) -> None:
    """A lease that has expired by the clock of the database alone: the host has the time of one to renew it."""
    with nodes.cluster(tmp_path, lease=2.0, lost_after=3.0) as cluster:
        async with cluster.node("b") as store:
            parts = store._parts.membership
            job = await claimed(store, "t")
            async with asyncio.timeout(TIMEOUT):
                while parts._lease.unbroken < 2.0:
                    await asyncio.sleep(0.02)
            cluster.execute("UPDATE jobs SET host = 'c' WHERE id = %s", job.id)
            cluster.execute(AWAY)
            await parts._lease.renew(parts._reconciler.follow, lambda: None)
            await parts._judge.look()
            assert (await store.job(job.id)).state == "running"

            async def is_lost() -> bool:
                return (await store.job(job.id)).done

            await eventually(is_lost)


@pytest.mark.heavy
async def test_a_host_that_had_no_jobs_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has claimed in its last moment, after its jobs were lost, is lost, too."""
    monkeypatch.setattr(judge, "_RECHECK_INTERVAL", 0.1)
    with nodes.cluster(tmp_path, lease=LEASE, lost_after=LEASE) as cluster:
        async with cluster.node("b") as store:
            cluster.execute(AWAY)
            job = await claimed(store, "t")
            async with asyncio.timeout(TIMEOUT):
                while "c" not in store._parts.membership._judge._emptied:
                    await asyncio.sleep(0.02)
            cluster.execute("UPDATE jobs SET host = 'c' WHERE id = %s", job.id)

            async def is_lost() -> bool:
                return (await store.job(job.id)).done

            await eventually(is_lost)


@pytest.mark.heavy
async def test_a_witness_that_returns_adds_what_it_saw_once(cluster: Cluster) -> None:
    """`lost` stays; `found` and the output are added under the claim's token, by the first report only."""
    async with cluster.node("b") as two, cluster.node("a") as one:
        job = await claimed(one, "t")
        cluster.execute("UPDATE jobs SET host = 'gone' WHERE id = %s", job.id)
        cluster.execute("""INSERT INTO hosts (name, incarnation, boot, home, version, claims, slots, free,
            unreachable)
            VALUES ('gone', '', '', '', '', true, 0, 0, clock_timestamp())""")  # fmt: skip
        assert await two.hosts.remove("gone") == 1
        assert not await one.finish(job.id, "another", EXITED, Volume(), Head())
        with two.watch(job.id) as subscription:
            assert await one.finish(job.id, "t", EXITED, Volume(2, 1), Head(b"hi\n", b""))
            await asyncio.wait_for(subscription.wait(), TIMEOUT)
        other = End(Ending.EXITED, 3000, exit_code=0, started=1000, duration=0.5)
        assert not await one.finish(job.id, "t", other, Volume(9, 9), Head())
        assert await one.finish(job.id, "t", EXITED, Volume(2, 1), Head(b"hi\n", b""))  # repeated: known
        done = await two.job(job.id)
        assert isinstance(done.phase, Done)
        assert done.phase.end.ending is Ending.LOST
        assert done.phase.found == Found(Ending.EXITED, 2000, exit_code=3)
        assert done.phase.volume == Volume(2, 1)
        assert (await two.size()).bytes == 3
        await two.delete_job(job.id)
        assert (await two.size()) == type(await two.size())(0, 0)


@pytest.mark.heavy
async def test_an_end_that_was_committed_without_an_answer_is_known(cluster: Cluster) -> None:
    """The same end again is reported as recorded, another one is not; so too if another attempt follows."""
    async with cluster.node("a") as one:
        job = await claimed(one, "t")
        assert await one.finish(job.id, "t", EXITED, Volume(), Head())
        assert await one.finish(job.id, "t", EXITED, Volume(), Head())
        assert not await one.finish(job.id, "t", End(Ending.CANCELLED, 5), Volume(), Head())
        job = await claimed(one, "u")
        later = 1 << 50
        assert await one.finish(job.id, "u", EXITED, Volume(), Head(), next_attempt_at=later)
        assert await one.finish(job.id, "u", EXITED, Volume(), Head(), next_attempt_at=later)
        assert not await one.finish(job.id, "u", End(Ending.CANCELLED, 5), Volume(), Head())
        assert (await one.job(job.id)).attempt == 2


@pytest.mark.heavy
async def test_a_host_that_comes_to_the_verdict_lost_itself_changes_nothing(cluster: Cluster) -> None:
    """Of a job that was declared lost meanwhile its own verdict is known, and is not taken for what was found."""
    async with cluster.node("b") as two, cluster.node("a") as one:
        job = await claimed(one, "t")
        cluster.execute("UPDATE hosts SET seen = seen - interval '1 min', unreachable = seen WHERE name = 'a'")
        cluster.execute("UPDATE jobs SET host = 'c' WHERE id = %s", job.id)
        cluster.execute("INSERT INTO hosts SELECT 'c', incarnation, boot, home, version, queues, claims, slots, free,"
                        " draining, joined, seen, clock_timestamp() FROM hosts WHERE name = 'a'")  # fmt: skip
        assert await two.hosts.remove("c") == 1
        verdict = End(Ending.LOST, 5000, detail="its keeper is gone")
        assert await one.finish(job.id, "t", verdict, Volume(), Head())
        phase = (await two.job(job.id)).phase
        assert isinstance(phase, Done)
        assert (phase.found, phase.end.completed == 5000) == (None, False)


@pytest.mark.heavy
async def test_a_second_server_with_the_name_of_a_living_one_is_refused(cluster: Cluster) -> None:
    """It is refused while the first renews its lease; once that has expired, it may have the name."""
    (cluster.directory / "other").mkdir()
    async with cluster.node("a") as one:
        with pytest.raises(StoreUnavailable, match="another server that is running is host 'a'"):
            async with cluster.node("a", directory="other"):
                pass
        await claimed(one, "t")
    async with cluster.node("a", directory="other") as other:
        assert [each.name for each in await other.hosts.list()] == ["a"]
        await claimed(other, "u")


@pytest.mark.heavy
async def test_what_a_server_with_another_directory_has_started_is_lost(cluster: Cluster) -> None:
    """The one that has its name now must not judge it by its own slots, which say that it was never started."""
    async with cluster.node("a") as one:
        job = await claimed(one, "t")
    async with cluster.node("a", directory="other") as other:
        assert not await other.running()
        phase = (await other.job(job.id)).phase
        assert isinstance(phase, Done)
        assert phase.end.ending is Ending.LOST
        assert other.endings["default", Ending.LOST] == 1
        own = await claimed(other, "u")
    async with cluster.node("a", directory="other") as other:
        assert [claim.job_id for claim in await other.running()] == [own.id]


@pytest.mark.heavy
async def test_of_two_servers_with_one_name_only_the_later_claims(cluster: Cluster) -> None:
    """A server of the same directory takes the name over at once; the earlier one claims nothing from then on."""
    async with cluster.node("a") as one:
        claim = asyncio.ensure_future(one.claim(1, "earlier"))
        async with cluster.node("a") as two:
            for number in range(20):
                await one.add(SPEC)
                assert (await asyncio.wait_for(two.claim(number, f"later {number}"), TIMEOUT)).token != "earlier"
            assert not claim.done()
            await one.add(SPEC)
        assert not claim.done()
        claim.cancel()
