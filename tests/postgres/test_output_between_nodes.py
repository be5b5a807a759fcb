"""Output of a job that one node runs, as the other nodes read it: every byte once, in every way of reading."""

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from shellrunner.errors import StoreUnavailable
from shellrunner.keeper.slot import DATA_CAPACITY, IndexEntry
from shellrunner.model import Claim, End, Ending, JobSpec, State, Stream, Volume
from shellrunner.store import Head, Output
from shellrunner.store.db import Db
from shellrunner.store.output.reader import OutputSnapshot
from shellrunner.store.postgres import schema
from shellrunner.store.postgres.engine import connection_thread
from shellrunner.store.postgres.engine.postgres_db import PostgresDb
from shellrunner.store.postgres.hosts import losing
from shellrunner.store.postgres.output_chunks import chunk_rows
from shellrunner.store.postgres.output_chunks.chunk_rows import OutputChunk
from shellrunner.store.postgres.output_chunks.chunk_source import ChunkSource
from shellrunner.store.postgres.store import PostgresStore
from shellrunner.store.transition import Transitions
from tests.postgres.reading import read_all
from tests.support import postgres
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
            while True:
                with suppress(StoreUnavailable):
                    if (output := await store.output(job_id)).volume.stored >= size:
                        return output
                await subscription.wait()


@pytest.mark.heavy
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


async def test_one_frame_after_the_other_is_read_in_few_transactions(cluster: Cluster) -> None:
    """A read that is followed by others, as it seems, reads ahead; those need no database, and get the same bytes."""
    size, count = 1 << 18, 8
    data = random.Random(1).randbytes(size * count)
    first = IndexEntry(0, 0, 0, 1).pack()
    chunks = [
        OutputChunk(at, at, size, 0, min(at, 1), b"" if at else first, data[at : at + size])
        for at in range(0, len(data), size)
    ]
    units = 0
    with connection_thread.connect(cluster.url) as connection:
        chunk_rows.add(PostgresDb(connection), [(1, 1, chunk) for chunk in chunks])

        async def run_read(unit: Any) -> Any:
            nonlocal units
            units += 1
            return unit(PostgresDb(connection))

        output = OutputSnapshot(ChunkSource(run_read, 1, 1, Volume(len(data), 0)))
        frames = [await output.read(at, size) for at in range(0, len(data), size)]
        assert b"".join(extent.data for frame in frames for extent in frame) == data
        assert units == 2
        for at, length in ((5 * size - 3, 7), (3, 5), (len(data) - 1, 9)):
            assert await output.read_bytes(at, length) == data[at : at + length]
            assert await output.read_stream(Stream.STDOUT, at, length) == data[at : at + length]


@pytest.mark.heavy
async def test_a_short_job_sends_no_chunks(cluster: Cluster) -> None:
    """All of its output is the head, which goes with its end."""
    async with cluster.node("one") as one, cluster.node("two", claims=False) as two:
        claim = await claimed(one)
        with SimulatedKeeper(cluster.directory / "one") as keeper:
            keeper.begin(claim.job_id, claim.token).store(0, b"hello\n")
            assert await one.finish(claim.job_id, claim.token, ended(), *keeper.record(claim.job_id, claim.token))
        assert await read_all(await two.output(claim.job_id)) == b"hello\n"
    assert cluster.execute("SELECT count(*) FROM chunks") == [(0,)]


@pytest.mark.heavy
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


@pytest.mark.heavy
async def test_streams_attempts_and_lists_are_read_at_another_node(cluster: Cluster) -> None:
    """Attempts that were sent are joined; one alone, and the outputs of a list, are read as well."""
    first, second = Written(3, (40, 9000), share=0.5), Written(4, (30, 9000), share=0.5)
    async with cluster.node("one") as one, cluster.node("two", claims=False) as two:
        job = await one.add(SPEC)
        with SimulatedKeeper(cluster.directory / "one") as keeper:
            for attempt, written in enumerate((first, second), 1):
                claim = await one.claim(1, f"a-{attempt}")
                written.store(keeper.begin(job.id, claim.token, attempt=attempt))
                due = 0 if attempt == 1 else None
                record = keeper.record(job.id, claim.token)
                assert await one.finish(job.id, claim.token, ended(1), *record, next_attempt_at=due)
        output = await two.output(job.id)
        assert await read_all(output) == first.all + second.all
        assert output.attempt_ends == [len(first.all)]
        assert await first.check(await two.output(job.id, 1), thorough=True) == 0
        assert await second.check(await two.output(job.id, 2), thorough=False) == 0
        assert await read_all((await two.last_outputs([job.id]))[job.id]) == second.all


@pytest.mark.heavy
async def test_a_lost_job_has_what_was_sent(cluster: Cluster) -> None:
    """Any node may record that it is lost: what was read elsewhere stays there, whatever is left on its host."""
    written = Written(5, (60, 9000), share=0.5)
    async with cluster.node("one") as one, cluster.node("two", claims=False) as two:
        for number, losing in enumerate((one, two)):
            claim = await claimed(one, f"a-{number}", keeper=number + 1)
            with SimulatedKeeper(cluster.directory / "one", number + 1) as keeper:
                recorder = keeper.begin(claim.job_id, claim.token)
                written.store(recorder)
                await sent(two, claim.job_id, len(written.all))
                if losing is one:
                    assert await one.finish(claim.job_id, claim.token, LOST, Volume(), Head())
                else:
                    await until_lost(two)
            for store in (one, two):
                output = await store.output(claim.job_id)
                assert output.volume.stored == len(written.all)
                assert await written.check(output, thorough=True) == 0


async def until_lost(store: PostgresStore) -> None:
    """Let the other node record that the jobs of the first one are lost."""
    await store._engine.change(_lose, store._effects.committed)


def _lose(db: Db) -> tuple[Transitions, Transitions]:
    transitions = losing.lose(db, "one", "its host is gone", 2_000)
    return transitions, transitions


@pytest.mark.heavy
async def test_what_is_missing_on_the_host_is_a_gap_elsewhere(cluster: Cluster) -> None:
    """A file that was cut before it was sent: what is there is sent, each byte at its place."""
    written = Written(6, (80, 9000), share=0.4)
    async with cluster.node("one") as one, cluster.node("two", claims=False) as two:
        claim = await claimed(one)
        with SimulatedKeeper(cluster.directory / "one") as keeper:
            written.store(keeper.begin(claim.job_id, claim.token))
            record = keeper.record(claim.job_id, claim.token)
            (file,) = (cluster.directory / "one" / "runs").glob("*.out")
            with file.open("r+b") as opened:
                opened.truncate(200_000)
                opened.seek(250_000)
                opened.write(written.all[DATA_CAPACITY + 250_000 :])
            assert await one.finish(claim.job_id, claim.token, ended(), *record)
        for store in (one, two):
            assert 50_000 - 8192 <= await written.check(await store.output(claim.job_id), thorough=True) <= 50_000


@pytest.mark.heavy
async def test_output_goes_on_after_the_database_was_away(tmp_path: Path) -> None:
    """While it is stopped the job writes on; what was not sent, and the end, follow when it is back."""
    written = Written(7, (90, 9000), share=0.4)
    with postgres.server() as server:
        cluster = Cluster(tmp_path, server, server.create_database())
        schema.migrate(cluster.url)
        async with cluster.node("one") as one, cluster.node("two", claims=False) as two:
            claim = await claimed(one)
            with SimulatedKeeper(tmp_path / "one") as keeper:
                recorder = keeper.begin(claim.job_id, claim.token)
                for number, end in enumerate((lambda: server.stop("immediate"), server.kill)):
                    written.store(recorder, 30 * number, 30 * number + 15)
                    await sent(two, claim.job_id, sum(recorder.stored))
                    await asyncio.to_thread(end)
                    written.store(recorder, 30 * number + 15, 30 * number + 30)
                    await asyncio.to_thread(server.start)
                    output = await sent(two, claim.job_id, sum(recorder.stored))
                    assert await written[: 30 * number + 30].check(output, thorough=True) == 0
                written.store(recorder, 60, 90)
                record = keeper.record(claim.job_id, claim.token)
                await asyncio.to_thread(server.stop, "immediate")
                with pytest.raises(StoreUnavailable):
                    await one.finish(claim.job_id, claim.token, ended(), *record)
                await asyncio.to_thread(server.start)
                assert await recorded(one, claim, record)
                output = await sent(two, claim.job_id, sum(recorder.stored))
            assert await written.check(output, thorough=True) == 0


@pytest.mark.heavy
async def test_a_database_that_has_received_less_is_sent_it_again(cluster: Cluster) -> None:
    """After a failover to a replica that lagged behind, for example: no gap is left where it goes on."""
    written = Written(10, (90, 9000), share=0.4)
    async with cluster.node("one") as one, cluster.node("two", claims=False) as two:
        claim = await claimed(one)
        with SimulatedKeeper(cluster.directory / "one") as keeper:
            recorder = keeper.begin(claim.job_id, claim.token)
            for number in range(3):
                written.store(recorder, 20 * number, 20 * number + 20)
                await sent(two, claim.job_id, sum(recorder.stored))
            cluster.execute("DELETE FROM chunks WHERE position > 200000")
            cluster.server.terminate_connections(cluster.database)
            written.store(recorder, 60, 90)
            output = await sent(two, claim.job_id, sum(recorder.stored))
            assert await written.check(output, thorough=True) == 0


async def recorded(store: PostgresStore, claim: Claim, record: tuple[Volume, Head]) -> bool:
    """Record an end as the supervisor does, again and again."""
    async with asyncio.timeout(20):
        while True:
            with suppress(StoreUnavailable):
                return await store.finish(claim.job_id, claim.token, ended(), *record)
            await asyncio.sleep(0.05)


@pytest.mark.heavy
async def test_the_next_server_goes_on_where_the_last_one_ended(cluster: Cluster) -> None:
    """The database says how far the output was sent, and no byte is sent twice."""
    written = Written(8, (90, 9000), share=0.4)
    async with cluster.node("two", claims=False) as two:
        async with cluster.node("one") as one:
            claim = await claimed(one)
            keeper = SimulatedKeeper(cluster.directory / "one")
            recorder = keeper.begin(claim.job_id, claim.token)
            written.store(recorder, 0, 30)
            await sent(two, claim.job_id, sum(recorder.stored))
        written.store(recorder, 30, 60)
        async with cluster.node("one") as one:
            await sent(two, claim.job_id, sum(recorder.stored))
        written.store(recorder, 60, 90)
        async with cluster.node("one") as one:
            record = keeper.record(claim.job_id, claim.token)
            assert await one.finish(claim.job_id, claim.token, ended(), *record)
            assert await written.check(await two.output(claim.job_id), thorough=True) == 0
        keeper.close()
    assert cluster.execute("SELECT sum(length)::bigint FROM chunks") == [(len(written.all),)]


@pytest.mark.heavy
@pytest.mark.parametrize("only_result", [True, False])
async def test_chunks_of_deleted_results_are_removed(cluster: Cluster, *, only_result: bool) -> None:
    """In small steps, after the deletion; those of other jobs stay."""
    written = Written(9, (100, 30_000), share=0.4)
    async with cluster.node("one") as one:
        jobs: list[int] = []
        for number in range(2):
            claim = await claimed(one, f"a-{number}", keeper=number + 1)
            with SimulatedKeeper(cluster.directory / "one", number + 1) as keeper:
                written.store(keeper.begin(claim.job_id, claim.token))
                record = keeper.record(claim.job_id, claim.token)
                assert await one.finish(claim.job_id, claim.token, ended(), *record)
            jobs.append(claim.job_id)
        await (one.delete_result(jobs[0]) if only_result else one.delete_job(jobs[0]))
        async with asyncio.timeout(30):
            while cluster.execute("SELECT DISTINCT job FROM chunks") != [(jobs[1],)]:
                await asyncio.sleep(0.05)
        async with asyncio.timeout(30):
            while cluster.execute("SELECT * FROM discarded_outputs"):
                await asyncio.sleep(0.05)
        assert await written.check(await one.output(jobs[1]), thorough=True) == 0


async def test_files_that_were_left_are_removed_once_the_history_has_all_of_them(cluster: Cluster) -> None:
    """Those of a job that is lost, or runs, or of which the history knows nothing, stay."""
    written = Written(11, (60, 9000), share=0.4)
    async with cluster.node("one") as one:
        names: list[str] = []
        runs = cluster.directory / "one" / "runs"
        for number, end in enumerate((ended(), LOST, None)):
            claim = await claimed(one, f"a-{number}", keeper=number + 1)
            with SimulatedKeeper(cluster.directory / "one", number + 1) as keeper:
                written.store(keeper.begin(claim.job_id, claim.token))
                names.append(f"{claim.job_id}.{claim.token}.out")
                if end is not None:
                    record = keeper.record(claim.job_id, claim.token)
                    assert await one.finish(claim.job_id, claim.token, end, *record)
        async with asyncio.timeout(20):
            while (runs / names[0]).exists():
                await asyncio.sleep(0.01)
        for name in (names[0], "1.b-1.out", "77.a-1.out"):
            (runs / name).write_bytes(b"left")
        await one._parts.output.sweep.sweep(one._effects.spill)
        async with asyncio.timeout(20):
            while (runs / names[0]).exists():
                await asyncio.sleep(0.01)
        left = {path.name for path in runs.glob("*.out")}
        assert left == {names[1], names[2], "1.b-1.out", "77.a-1.out"}


class Following:
    """A client that goes from node to node, and resumes each time where it was."""

    def __init__(self, written: Written, job_id: int) -> None:
        self.written, self.job_id, self.position = written, job_id, 0

    async def read(self, store: PostgresStore, limit: int) -> int:
        """Read on at this node; return how many bytes more are known there."""
        output = await store.output(self.job_id)
        behind = output.volume.stored - self.position
        assert behind >= 0 or output.lags, "a node that runs the job, or has all of its output, is not behind"
        if behind > 0:
            for extent in await output.read(self.position, limit):
                assert extent.position == self.position
                assert extent.data == self.written.all[self.position : self.position + len(extent.data)]
                self.position += len(extent.data)
        return output.volume.stored - self.position


@pytest.mark.heavy
@pytest.mark.parametrize("round_number", range(2))
async def test_any_sequence_of_events_gives_each_byte_once(cluster: Cluster, seed: int, round_number: int) -> None:
    """Writes, ends of connections and of servers, and clients that change nodes, in any order."""
    chance = random.Random(seed + round_number)
    written = [Written(chance.randrange(10**6), (60, chance.choice([40, 9000, 60_000])), 0.4) for _ in range(3)]
    async with (
        cluster.node("two", claims=False) as two,
        cluster.node("three", claims=False) as three,
        AsyncExitStack() as workers,
        asyncio.timeout(150),
    ):
        one = await workers.enter_async_context(cluster.node("one"))
        claims = [await claimed(one, f"a-{number}", number + 1) for number in range(3)]
        keepers = [SimulatedKeeper(cluster.directory / "one", number + 1) for number in range(3)]
        recorders = [keeper.begin(claim.job_id, claim.token) for keeper, claim in zip(keepers, claims, strict=True)]
        followers = [Following(written[number % 3], claims[number % 3].job_id) for number in range(6)]
        progress, open_jobs, known = [0, 0, 0], {0, 1, 2}, list[bool]()
        while open_jobs or any(each.position < len(each.written.all) for each in followers):
            choice, number = chance.random(), chance.choice([*open_jobs] or [0])
            with suppress(StoreUnavailable):
                if choice < 0.4 and open_jobs:
                    step = chance.randint(1, 12)
                    written[number].store(recorders[number], progress[number], progress[number] + step)
                    progress[number] += step
                    if progress[number] >= len(written[number].pieces):
                        open_jobs.remove(number)
                        record = keepers[number].record(claims[number].job_id, claims[number].token)
                        known.append(await recorded(one, claims[number], record))
                elif choice < 0.44:
                    cluster.server.terminate_connections(cluster.database)
                elif choice < 0.48:
                    await workers.aclose()
                    one = await workers.enter_async_context(cluster.node("one"))
                elif choice < 0.7:
                    await asyncio.sleep(chance.uniform(0, 0.1))
                else:
                    follower = chance.choice(followers)
                    await follower.read(chance.choice([one, two, three]), chance.choice([1000, 1 << 18]))
        assert known == [True] * 3
        for store in (one, two, three):
            for each, claim in zip(written, claims, strict=True):
                assert await each.check(await eventually(store, claim.job_id), thorough=True) == 0
        for keeper in keepers:
            keeper.close()


async def eventually(store: PostgresStore, job_id: int) -> Output:
    """Return an output, whose connection may have been ended a moment ago."""
    async with asyncio.timeout(20):
        while True:
            with suppress(StoreUnavailable):
                return await store.output(job_id)
            await asyncio.sleep(0.05)
