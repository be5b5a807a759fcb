"""Commands that run on though their jobs are lost, or deleted since: they are known, and can be ended."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from shellrunner.errors import AlreadyDone
from shellrunner.model import Claim, Done, End, Ending, Found, JobSpec, State, Volume
from shellrunner.store import Filters, Head
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.connection_thread import connect
from shellrunner.store.postgres.engine.postgres_db import PostgresDb
from shellrunner.store.postgres.hosts import losing
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.postgres.output_chunks import chunk_rows
from shellrunner.store.postgres.output_chunks.chunk_rows import OutputChunk
from shellrunner.store.postgres.store import PostgresStore
from shellrunner.store.units import lifecycle
from tests.support import nodes
from tests.support.nodes import Cluster
from tests.support.simulated_keeper import SimulatedKeeper
from tests.support.written import Written

TIMEOUT = 20.0
SPEC = JobSpec(command="true")
EXITED = End(Ending.EXITED, 2000, exit_code=3, started=1000, duration=0.5)
CANCELLED = End(Ending.CANCELLED, 2000, signal="SIGTERM", started=1000, duration=0.5)
WAITING = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
LOST = End(Ending.LOST, 2000, detail="its keeper is gone", started=1000)


@pytest.fixture
def cluster(tmp_path: Path) -> object:
    """Yield a history of which no host becomes unreachable by itself."""
    with nodes.cluster(tmp_path, lost_after=None) as made:
        yield made


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.02)


async def claimed(store: PostgresStore, token: str = "a-1") -> Claim:
    """Add a job and claim it at the same node."""
    await store.add(SPEC)
    return await store.claim(1, token)


async def emptied(cluster: Cluster, table: str) -> bool:
    """Wait until a table has no rows."""
    await eventually(lambda: not cluster.execute(f"SELECT 1 FROM {table}"))
    return True


async def lose(cluster: Cluster, store: PostgresStore, host: str) -> None:
    """Declare lost what runs on this host, as if it had been away for too long; it stays a host."""

    def judged(db: Db) -> tuple[object, object]:
        transitions = losing.lose(db, host, f"host {host} was unreachable", 1500)
        return transitions, transitions

    await store._engine.change(judged, store._effects.committed)  # type: ignore[arg-type]
    assert not cluster.execute("SELECT 1 FROM jobs WHERE state = 'running' AND host = %s", host)


async def counted(store: PostgresStore, host: str) -> int:
    """Return how many commands of lost jobs may run on a host, as clients see it."""
    return {each.name: each.unsettled for each in await store.hosts.list()}[host]


@pytest.mark.heavy
async def test_a_lost_job_whose_host_may_run_it_can_be_cancelled_at_any_node(cluster: Cluster) -> None:
    """Its host learns of it as for a running one, and what it found says so; then the job is done like any other."""
    async with cluster.node("a") as one, cluster.node("b") as two:
        claim = await claimed(one)
        await lose(cluster, two, "a")
        assert (await counted(two, "a"), await counted(two, "b")) == (1, 0)
        assert [each.token for each in await one.cancelling()] == []
        with one.watch_cancel_requests() as subscription:
            assert (await two.request_cancel(claim.job_id)).state is State.DONE
            async with asyncio.timeout(TIMEOUT):
                while not (cancelling := await one.cancelling()):
                    await subscription.wait()
        assert [(each.token, each.kill_only) for each in cancelling] == [("a-1", False)]
        assert await two.cancelling() == []
        assert await one.finish(claim.job_id, "a-1", CANCELLED, Volume(), Head())
        phase = (await two.job(claim.job_id)).phase
        assert isinstance(phase, Done)
        assert (phase.end.ending, phase.found) == (Ending.LOST, Found(Ending.CANCELLED, 2000, signal="SIGTERM"))
        assert await one.cancelling() == []
        assert await counted(two, "a") == 0
        with pytest.raises(AlreadyDone):
            await two.request_cancel(claim.job_id)


@pytest.mark.heavy
@pytest.mark.parametrize("many", [False, True])
async def test_the_command_of_a_deleted_job_is_ended(cluster: Cluster, *, many: bool) -> None:
    """By KILL, as nothing of it is wanted any more; its end is known, and leaves nothing."""
    async with cluster.node("a") as one, cluster.node("b") as two:
        claim = await claimed(one)
        await lose(cluster, two, "a")
        await (two.delete_jobs(Filters()) if many else two.delete_job(claim.job_id))
        assert [(each.token, each.kill_only) for each in await one.cancelling()] == [("a-1", True)]
        assert await counted(two, "a") == 1
        assert await one.finish(claim.job_id, "a-1", CANCELLED, Volume(3, 0), Head(b"hi\n", b""))
        assert await counted(two, "a") == 0
        assert cluster.execute("SELECT 1 FROM jobs UNION ALL SELECT 1 FROM outputs") == []


@pytest.mark.heavy
async def test_what_retention_removes_is_not_ended(cluster: Cluster) -> None:
    """No command is ended because its job is old; it still counts, and its end is known."""
    async with cluster.node("a") as one, cluster.node("b") as two:
        claim = await claimed(one)
        await lose(cluster, two, "a")
        cluster.execute("DELETE FROM jobs")
        assert await one.cancelling() == []
        assert await counted(two, "a") == 1
        assert await one.finish(claim.job_id, "a-1", EXITED, Volume(), Head())
        assert await counted(two, "a") == 0


@pytest.mark.heavy
async def test_the_next_server_of_the_host_sees_lost_jobs_to_their_end(cluster: Cluster) -> None:
    """It adopts their claims, also of deleted jobs; what it finds is added, or that nothing is known any more."""
    async with cluster.node("b") as two:
        async with cluster.node("a") as one:
            found, unknown, unstarted, deleted = [await claimed(one, f"a-{number}") for number in range(4)]
            await lose(cluster, two, "a")
        await two.delete_job(deleted.job_id)
        async with cluster.node("a") as one:
            assert [(each.token, each.cancelling) for each in await one.running()] == [
                ("a-0", False), ("a-1", False), ("a-2", False), ("a-3", True),
            ]  # fmt: skip
            assert await one.finish(found.job_id, "a-0", EXITED, Volume(), Head())
            assert await one.finish(unknown.job_id, "a-1", LOST, Volume(), Head())
            assert await one.requeue(unstarted.job_id, "a-2")
            assert await one.finish(deleted.job_id, "a-3", LOST, Volume(), Head())
            assert await one.running() == []
            phases = [(await one.job(each.job_id)).phase for each in (found, unknown, unstarted)]
            assert [(phase.end.ending, phase.found) for phase in phases if isinstance(phase, Done)] == [
                (Ending.LOST, Found(Ending.EXITED, 2000, exit_code=3)), (Ending.LOST, None), (Ending.LOST, None),
            ]  # fmt: skip


async def test_a_server_that_has_taken_the_name_does_not_settle_what_another_one_runs(cluster: Cluster) -> None:
    """The claims are nobody's by name, and the one that runs them is still asked to end them."""
    async with cluster.node("a") as one:
        claim = await claimed(one)

        def taken(db: Db) -> tuple[object, object]:
            transitions = losing.lose(db, "a", "its name was taken", 1500, claimed_by=unsettled.NOBODY)
            return transitions, transitions

        await one._engine.change(taken, one._effects.committed)  # type: ignore[arg-type]
        assert await one.running() == []
        await one.request_cancel(claim.job_id)
        assert [each.token for each in await one.cancelling()] == ["a-1"]
        assert await one.finish(claim.job_id, "a-1", CANCELLED, Volume(), Head())
        assert await one.cancelling() == []


@pytest.mark.heavy
@pytest.mark.parametrize("deletion", ["job first", "result first", "job last", "result last"])
async def test_nothing_is_left_of_a_lost_job_on_whichever_side_it_is_deleted(cluster: Cluster, deletion: str) -> None:
    """Neither chunks nor spill files, whether it is deleted before its host reports what it saw, or after."""
    written = Written(7, (100, 30_000), share=0.4)
    runs = cluster.directory / "a" / "runs"
    async with cluster.node("a") as one, cluster.node("b") as two:
        claim = await claimed(one)
        delete = two.delete_job if deletion.startswith("job") else two.delete_result
        with SimulatedKeeper(cluster.directory / "a", 1) as keeper:
            recorder = keeper.begin(claim.job_id, claim.token)
            written.store(recorder, 0, 50)
            await eventually(lambda: cluster.execute("SELECT 1 FROM chunks"))
            await lose(cluster, two, "a")
            if deletion.endswith("first"):
                await delete(claim.job_id)
            written.store(recorder, 50, 100)
            await one._parts.output.sweep.remove_discarded(one._effects.spill)
            assert list(runs.glob("*.out")), "it is written while the command runs"
            assert await one.finish(claim.job_id, claim.token, LOST, *keeper.record(claim.job_id, claim.token))
        if deletion.endswith("last"):
            assert list(runs.glob("*.out"))
            await delete(claim.job_id)
        await one._parts.output.sweep.remove_discarded(one._effects.spill)
        await eventually(lambda: not list(runs.iterdir()))
        for table in ("chunks", "discarded_files", "discarded_outputs", "unsettled"):
            assert await emptied(cluster, table)


CHUNK = OutputChunk(0, 0, 3, 0, 0, b"", b"abc")


@pytest.mark.heavy
@pytest.mark.parametrize("delete", [lifecycle.delete_result, lifecycle.delete_job])
@pytest.mark.parametrize("is_sent_first", [True, False])
async def test_a_deletion_and_the_sender_of_a_lost_job_wait_for_each_other(
    cluster: Cluster, delete: Callable[[Db, int], object], *, is_sent_first: bool
) -> None:
    """So each chunk that was sent is discarded, and none is sent once the result is deleted."""
    async with cluster.node("a") as one:
        claim = await claimed(one)
        await lose(cluster, one, "a")
    with connect(cluster.url) as sending, connect(cluster.url) as deleting:

        def send() -> None:
            if chunk_rows.hold(PostgresDb(sending), [claim.job_id]):
                chunk_rows.add(PostgresDb(sending), [(claim.job_id, 1, CHUNK)])

        def remove() -> None:
            delete(PostgresDb(deleting), claim.job_id)

        steps = [(sending, send), (deleting, remove)]
        (first, begin), (second, follow) = steps if is_sent_first else steps[::-1]
        first.execute("BEGIN")
        second.execute("BEGIN")
        begin()
        following = asyncio.ensure_future(asyncio.to_thread(follow))
        await eventually(lambda: cluster.execute(WAITING, second.info.backend_pid) == [("Lock",)])
        first.execute("COMMIT")
        await following
        second.execute("COMMIT")
    assert len(cluster.execute("SELECT job FROM chunks")) == is_sent_first
    assert cluster.execute("SELECT job FROM discarded_outputs") == cluster.execute("SELECT job FROM chunks")
