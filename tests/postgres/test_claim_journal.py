"""The claim journal: what a node has started is not run twice, whatever the database has forgotten."""

import asyncio
from pathlib import Path

import pytest

from shellrunner.model import Done, Ending, JobSpec, Volume
from shellrunner.model.job import End
from shellrunner.store import Head
from shellrunner.store.postgres.hosts.after_restore import declare_restored
from shellrunner.store.postgres.transaction.claim_journal import ClaimJournal, StartedAttempt
from tests.support import nodes
from tests.support.nodes import Cluster
from tests.support.waiting import until

SPEC = JobSpec(command="true")
TIMEOUT = 20.0
LEASE = 1.0
EXITED = End(Ending.EXITED, 2000, exit_code=0, started=1000, duration=0.5)
FORGET = """UPDATE jobs SET state = 'queued', keeper = NULL, token = NULL, claimed = NULL WHERE id = %s"""
COUNT_QUEUED = "UPDATE counts SET running = running - 1, queued = queued + 1 WHERE node = %s"


@pytest.fixture
def cluster(tmp_path: Path) -> object:
    """Yield a history whose leases are short."""
    with nodes.cluster(tmp_path, lease=LEASE, lost_after=None) as made:
        yield made


def test_what_was_started_is_found_after_opening_it_again(tmp_path: Path) -> None:
    """Started attempts are found, released ones are not, and a torn record hides no other."""
    journal = ClaimJournal(tmp_path / "journal", 8)
    journal.start([StartedAttempt(1, 1, "a"), StartedAttempt(2, 1, "b"), StartedAttempt(3, 2, "c")])
    journal.release(2, "b")
    journal.release(3, "another claim's token")
    journal.close()
    with (tmp_path / "journal").open("r+b") as file:
        file.seek(3)
        file.write(b"torn")
    journal = ClaimJournal(tmp_path / "journal", 8)
    assert [journal.has_started(*each) for each in ((1, 1), (2, 1), (3, 1), (3, 2))] == [False, False, False, True]
    assert (journal.has_started(3, 2, "c"), journal.has_started(3, 2, "d")) == (True, False)
    journal.close()


def test_the_journal_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    """After many batches the file is as large as at first, and the last `max_records` are found."""
    journal = ClaimJournal(tmp_path / "journal", 8)
    size = (tmp_path / "journal").stat().st_size
    for number in range(5, 95, 3):
        journal.start(StartedAttempt(each, 1, f"t{each}") for each in range(number, number + 3))
    journal.close()
    journal = ClaimJournal(tmp_path / "journal", 8)
    assert journal.job_ids == list(range(87, 95))
    journal.start([StartedAttempt(95, 1, "t")])
    assert journal.job_ids == list(range(88, 96))
    assert (tmp_path / "journal").stat().st_size == size
    journal.close()


async def test_a_job_that_the_database_has_forgotten_to_be_started_is_lost_not_run_twice(cluster: Cluster) -> None:
    """Its claim is refused by the node that has started it, which says why; the keeper gets another job."""
    async with cluster.node("a") as one:
        claim = asyncio.ensure_future(one.claim(1, "t"))
        job = await one.add(SPEC)
        await asyncio.wait_for(claim, TIMEOUT)
        cluster.execute(FORGET, job.id)
        cluster.execute(COUNT_QUEUED, "a")
        claim = asyncio.ensure_future(one.claim(1, "u"))

        async def is_done() -> bool:
            return (await one.job(job.id)).done

        await until(is_done)
        phase = (await one.job(job.id)).phase
        assert isinstance(phase, Done)
        assert phase.end.ending is Ending.LOST
        assert phase.end.detail == (
            "the database has forgotten that it was started on host a; how it ended is not known"
        )
        other = await one.add(SPEC)
        assert (await asyncio.wait_for(claim, TIMEOUT)).job_id == other.id
        assert sum(queue.queued for queue in (await one.queues()).queues) == 0


async def test_a_claim_that_was_put_back_is_claimed_again(cluster: Cluster) -> None:
    """Of which nothing was started, at this node, also after its server was restarted."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        for token in ("t", "u"):
            assert (await asyncio.wait_for(one.claim(1, token), TIMEOUT)).job_id == job.id
            assert await one.requeue(job.id, token)
    async with cluster.node("a") as one:
        assert (await asyncio.wait_for(one.claim(1, "v"), TIMEOUT)).job_id == job.id


async def test_another_epoch_is_followed_before_anything_is_claimed(cluster: Cluster) -> None:
    """What was started here and is unstarted by the history is lost; then claims go on, and no id is given twice."""
    async with cluster.node("a") as one:
        claim = asyncio.ensure_future(one.claim(1, "t"))
        job = await one.add(SPEC)
        await asyncio.wait_for(claim, TIMEOUT)
        await one.finish(job.id, "t", EXITED, Volume(), Head())
        # As if an older state of the database had come back: without the end, the claim, and later ids.
        cluster.execute(
            "UPDATE jobs SET state = 'waiting', held = 1, awaits = 1, ending = NULL WHERE id = %s", job.id
        )
        cluster.execute("INSERT INTO counts VALUES ('x', 'default', '', 1, 0, 0)")
        cluster.execute("SELECT setval(pg_get_serial_sequence('jobs', 'id'), 1, false)")
        cluster.execute("UPDATE meta SET value = '2' WHERE key = 'epoch'")
        later = [asyncio.ensure_future(one.claim(number, f"u{number}")) for number in range(3)]

        async def is_lost() -> bool:
            phase = (await one.job(job.id)).phase
            return isinstance(phase, Done) and phase.end.ending is Ending.LOST

        await until(is_lost)
        fresh = await one.add(SPEC)
        assert fresh.id > job.id
        done, _ = await asyncio.wait(later, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        assert [each.result().job_id for each in done] == [fresh.id]
        for each in later:
            each.cancel()


async def test_a_restore_is_declared(cluster: Cluster) -> None:
    """All queues are held, what ran is lost, nothing is claimed until an admin resumes; ids continue far above."""
    async with cluster.node("a") as one:
        claim = asyncio.ensure_future(one.claim(1, "t"))
        job = await one.add(SPEC)
        await asyncio.wait_for(claim, TIMEOUT)
        queued = await one.add(SPEC)
        restored = await asyncio.to_thread(declare_restored, cluster.url)
        assert restored == (2, 1)
        claim = asyncio.ensure_future(one.claim(1, "u"))
        phase = (await one.job(job.id)).phase
        assert isinstance(phase, Done)
        assert phase.end.ending is Ending.LOST
        later = await one.add(SPEC)
        assert later.id > queued.id + 1_000_000
        assert not claim.done()
        overview = await one.queues()
        assert overview.held is not None
        assert overview.held.reason == "the database was restored from a backup"
        assert sum(queue.running for queue in overview.queues) == 0
        assert await one.finish(job.id, "t", EXITED, Volume(), Head())
        phase = (await one.job(job.id)).phase
        assert isinstance(phase, Done)
        assert phase.found is not None
        await one.pause(None, paused=False)
        assert (await asyncio.wait_for(claim, TIMEOUT)).job_id == queued.id
