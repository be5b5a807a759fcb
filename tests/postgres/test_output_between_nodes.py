"""Output of a job that one node runs, as the other nodes read it: every byte once, in every way of reading."""

import asyncio

from shellrunner.model import Claim, End, Ending, JobSpec, State
from shellrunner.store import Output
from shellrunner.store.postgres.store import PostgresStore
from tests.postgres.reading import read_all
from tests.support.histories import ended
from tests.support.nodes import Cluster
from tests.support.simulated_keeper import SimulatedKeeper
from tests.support.written import Written

SPEC = JobSpec(command="true")
LOST = End(Ending.LOST, 2_000, detail="its host is gone", started=1_000)


async def claimed(store: PostgresStore, token: str = "a-1", keeper: int = 1) -> Claim:
    """Add a job and claim it at the same node."""
    await store.add(SPEC)
    return await store.claim(keeper, token)


async def sent(store: PostgresStore, job_id: int, size: int) -> Output:
    """Wait until another node has so much of the output."""
    async with asyncio.timeout(20):
        with store.watch_output(job_id) as subscription:
            while (output := await store.output(job_id)).volume.stored < size:
                await subscription.wait()
            return output


async def test_a_running_job_is_read_at_another_node(cluster: Cluster) -> None:
    """What was sent is read there in every way, also while more comes, and after the end."""
    written = Written(1, (60, 9000), share=0.4)
    async with cluster.node("one") as one, cluster.node("two", claims=False) as two:
        claim = await claimed(one)
        with SimulatedKeeper(cluster.directory / "one") as keeper:
            recorder = keeper.begin(claim.job_id, claim.token)
            size = 0
            for number in range(6):
                written.store(recorder, 10 * number, 10 * number + 10)
                size = sum(recorder.stored)
                output = await sent(two, claim.job_id, size)
                assert output.lags
                assert await written[: 10 * number + 10].check(output, thorough=True) == 0
            volume, head = keeper.record(claim.job_id, claim.token)
            assert await one.finish(claim.job_id, claim.token, ended(), volume, head)
        for store in (one, two):
            output = await store.output(claim.job_id)
            assert output.volume == volume
            assert not output.lags
            assert await written.check(output, thorough=True) == 0


async def test_a_short_job_sends_no_chunks(cluster: Cluster) -> None:
    """All of its output is the head, which goes with its end."""
    async with cluster.node("one") as one, cluster.node("two", claims=False) as two:
        claim = await claimed(one)
        with SimulatedKeeper(cluster.directory / "one") as keeper:
            keeper.begin(claim.job_id, claim.token).store(0, b"hello\n")
            assert await one.finish(claim.job_id, claim.token, ended(), *keeper.record(claim.job_id, claim.token))
        assert await read_all(await two.output(claim.job_id)) == b"hello\n"
    assert cluster.execute("SELECT count(*) FROM chunks") == [(0,)]


async def test_a_result_has_all_its_bytes_when_it_is_there(cluster: Cluster) -> None:
    """A large output that ends at once is sent before the end is recorded; its files are then removed."""
    written = Written(2, (400, 30_000), share=0.3)
    async with cluster.node("one") as one, cluster.node("two", claims=False) as two:
        claim = await claimed(one)
        with SimulatedKeeper(cluster.directory / "one") as keeper:
            written.store(keeper.begin(claim.job_id, claim.token))
            finished = one.finish(claim.job_id, claim.token, ended(), *keeper.record(claim.job_id, claim.token))
            async with asyncio.timeout(20):
                while (await two.job(claim.job_id)).state is not State.DONE:
                    await asyncio.sleep(0)
            assert await written.check(await two.output(claim.job_id), thorough=True) == 0
            assert await finished
            async with asyncio.timeout(20):
                while [*(cluster.directory / "one" / "runs").iterdir()]:
                    await asyncio.sleep(0.01)
            assert await written.check(await one.output(claim.job_id), thorough=True) == 0
