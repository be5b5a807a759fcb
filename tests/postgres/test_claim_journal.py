"""The claim journal: what a node has started is not run twice, whatever the database has forgotten."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from shellrunner.model import Done, Ending, JobSpec, Volume
from shellrunner.model.job import End
from shellrunner.store import Head
from shellrunner.store.postgres.hosts.after_restore import declare_restored
from shellrunner.store.postgres.transaction.claim_journal import ClaimJournal, StartedAttempt
from shellrunner.store.postgres.transaction.situation import Era
from tests.support import nodes
from tests.support.nodes import Cluster
from tests.support.waiting import until

SPEC = JobSpec(command="true")
TIMEOUT = 20.0
LEASE = 1.0
EXITED = End(Ending.EXITED, 2000, exit_code=0, started=1000, duration=0.5)
FORGET = """UPDATE jobs SET state = 'queued', keeper = NULL, token = NULL, claimed = NULL WHERE id = %s"""
RUNNING = "SELECT token FROM jobs WHERE state = 'running'"
HISTORY = "this history"
ERA = ("epoch", "server")
# The first commit of a claim fails.
REFUSED_ONCE = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('runs') = 1 THEN RAISE serialization_failure; END IF; RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.state = 'running') EXECUTE FUNCTION refuse()"""
COUNT_QUEUED = "UPDATE counts SET running = running - 1, queued = queued + 1 WHERE node = %s"


def start(journal: ClaimJournal, *attempts: StartedAttempt) -> None:
    """Note in the journal that these are claimed, and will be started."""
    journal.claim(attempts, "history")
    journal.confirm()


def journal_of(cluster: Cluster) -> Path:
    """Return the path of the journal of node a: each history that a state directory was used for has one."""
    ((history,),) = cluster.execute("SELECT value FROM meta WHERE key = 'history'")
    return cluster.directory / "a" / f"claims-{history}.journal"


def leave_record(cluster: Cluster, job_id: int, history: str) -> None:
    """Leave in the journal of node a what it leaves there when it is killed during COMMIT, under the token t."""
    if history == HISTORY:
        epoch, server = (cluster.execute("SELECT value FROM meta WHERE key = %s", key)[0][0] for key in ERA)
        history = str(Era(int(epoch), server))
    journal = ClaimJournal(journal_of(cluster))
    journal.claim([StartedAttempt(job_id, 1, "t")], history)
    journal.close()


def marks(cluster: Cluster) -> list[bytes]:
    """Return the marks of the records of node a."""
    lines = journal_of(cluster).read_bytes().split(b"\n")
    return [line[-1:] for line in lines if line.strip(b"\0")]


@pytest.fixture
def cluster(tmp_path: Path) -> object:
    """Yield a history whose leases are short."""
    with nodes.cluster(tmp_path, lease=LEASE, lost_after=None) as made:
        yield made


def test_what_was_started_is_found_after_opening_it_again(tmp_path: Path) -> None:
    """Started attempts are found, released ones are not, and a torn record hides no other."""
    journal = ClaimJournal(tmp_path / "journal", 8)
    start(journal, StartedAttempt(1, 1, "a"), StartedAttempt(2, 1, "b"), StartedAttempt(3, 2, "c"))
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
        start(journal, *(StartedAttempt(each, 1, f"t{each}") for each in range(number, number + 3)))
    journal.close()
    journal = ClaimJournal(tmp_path / "journal", 8)
    assert journal.job_ids == list(range(87, 95))
    start(journal, StartedAttempt(95, 1, "t"))
    assert journal.job_ids == list(range(88, 96))
    assert (tmp_path / "journal").stat().st_size == size
    journal.close()


def test_what_was_not_confirmed_is_left_to_the_history_it_was_claimed_in(tmp_path: Path) -> None:
    """Until that has decided it counts as started, in another history for good; what was withdrawn never does."""
    journal = ClaimJournal(tmp_path / "journal", 8)
    start(journal, StartedAttempt(1, 1, "a"))
    journal.claim([StartedAttempt(2, 1, "b")], "history")
    assert not journal.has_started(2, 1)
    journal.withdraw()
    journal.claim([StartedAttempt(3, 1, "c"), StartedAttempt(4, 1, "d")], "history")
    journal.close()  # as a server that is killed: without a mark
    journal = ClaimJournal(tmp_path / "journal", 8)
    assert journal.job_ids == [1, 3, 4]
    assert journal.doubtful("another history") == []
    assert journal.doubtful("history") == [StartedAttempt(3, 1, "c"), StartedAttempt(4, 1, "d")]
    journal.settle(StartedAttempt(3, 1, "c"), is_claimed=False)
    journal.settle(StartedAttempt(4, 1, "d"), is_claimed=True)
    assert journal.job_ids == [1, 4]
    assert journal.doubtful("history") == []
    journal.close()
    journal = ClaimJournal(tmp_path / "journal", 8)
    assert journal.job_ids == [1, 4]
    journal.close()


def test_a_mark_changes_no_other_byte_of_what_is_synced(tmp_path: Path) -> None:
    """So a host that crashes while it is written has the record, with it or without."""
    journal = ClaimJournal(tmp_path / "journal", 8)
    journal.claim([StartedAttempt(1, 1, "a"), StartedAttempt(2, 1, "b")], "history")
    synced = (tmp_path / "journal").read_bytes()
    journal.confirm()
    journal.close()
    marked = (tmp_path / "journal").read_bytes()
    assert [(one, other) for one, other in zip(synced, marked, strict=True) if one != other] == [tuple(b" +")] * 2


@pytest.mark.heavy
@pytest.mark.parametrize("is_committed", [False, True], ids=["before COMMIT", "after COMMIT"])
async def test_a_server_that_is_killed_while_it_claims_loses_no_job(cluster: Cluster, *, is_committed: bool) -> None:
    """The record is there, no keeper was given the job: by the history, it is queued, or runs and is put back."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
    if is_committed:
        cluster.execute("UPDATE jobs SET state = 'running', token = 't', keeper = 1, host = 'a'")
        cluster.execute("UPDATE counts SET running = 1, queued = 0")
    leave_record(cluster, job.id, HISTORY)
    async with cluster.node("a") as one:
        if is_committed:
            assert [claim.token for claim in await one.running()] == ["t"]
            assert await one.requeue(job.id, "t")
        assert (await asyncio.wait_for(one.claim(1, "u"), TIMEOUT)).job_id == job.id


@pytest.mark.heavy
async def test_after_a_failover_what_was_being_claimed_counts_as_started(cluster: Cluster) -> None:
    """The server to which COMMIT was sent is gone, and may have confirmed it: the job is lost, and not run."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
    leave_record(cluster, job.id, "the history on a server that is gone")
    async with cluster.node("a") as one:

        async def is_lost() -> bool:
            phase = (await one.job(job.id)).phase
            return isinstance(phase, Done) and phase.end.ending is Ending.LOST

        await until(is_lost)


@pytest.mark.heavy
async def test_no_keeper_gets_a_job_before_its_record_is_synced(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit does not wait for the disk of the node, the keeper does."""
    may_sync, fdatasync = threading.Event(), os.fdatasync

    def wait_and_sync(descriptor: int) -> None:
        may_sync.wait(TIMEOUT)
        fdatasync(descriptor)

    async with cluster.node("a") as one:
        await one.add(SPEC)
        monkeypatch.setattr(os, "fdatasync", wait_and_sync)
        claim = asyncio.ensure_future(one.claim(1, "t"))
        try:
            await until(lambda: cluster.execute(RUNNING) == [("t",)])
            assert not claim.done()
        finally:
            may_sync.set()
        assert (await asyncio.wait_for(claim, TIMEOUT)).token == "t"


@pytest.mark.heavy
async def test_a_claim_whose_commit_fails_is_not_started_and_the_next_one_is(cluster: Cluster) -> None:
    """It is run again: after a restart, the journal has only the claim that was committed."""
    cluster.execute("CREATE SEQUENCE runs")
    cluster.execute(REFUSED_ONCE)
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        assert (await asyncio.wait_for(one.claim(1, "t"), TIMEOUT)).job_id == job.id
        assert cluster.execute("SELECT last_value FROM runs") == [(2,)]
    journal = ClaimJournal(journal_of(cluster))
    assert journal.has_started(job.id, 1, "t")
    assert len([mark for mark in marks(cluster) if mark == b"-"]) == 1
    journal.close()


@pytest.mark.heavy
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


@pytest.mark.heavy
async def test_a_claim_that_was_put_back_is_claimed_again(cluster: Cluster) -> None:
    """Of which nothing was started, at this node, also after its server was restarted."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        for token in ("t", "u"):
            assert (await asyncio.wait_for(one.claim(1, token), TIMEOUT)).job_id == job.id
            assert await one.requeue(job.id, token)
    async with cluster.node("a") as one:
        assert (await asyncio.wait_for(one.claim(1, "v"), TIMEOUT)).job_id == job.id


@pytest.mark.heavy
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


@pytest.mark.heavy
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


@pytest.mark.heavy
async def test_the_journal_of_another_history_says_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """A state directory that is used for another database, whose jobs have the same ids, refuses none of them."""
    async with cluster.node("a") as one:
        first = await one.add(SPEC)
        assert (await asyncio.wait_for(one.claim(1, "t"), TIMEOUT)).job_id == first.id
    with nodes.cluster(tmp_path / "other", lease=LEASE) as other:
        other.execute("UPDATE meta SET value = md5('other') WHERE key = 'history'")  # both are copies of one
        async with other.node("a", directory=cluster.directory / "a") as one:
            same = await one.add(SPEC)
            assert same.id == first.id
            assert (await asyncio.wait_for(one.claim(1, "u"), TIMEOUT)).job_id == same.id


@pytest.mark.heavy
@pytest.mark.parametrize("era", ["the same", "another"])
async def test_a_claim_of_before_a_failover_that_left_nothing_is_not_put_back(cluster: Cluster, era: str) -> None:
    """A server that is started again finds nothing of it: it may have ended, and the history have forgotten that."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        assert (await asyncio.wait_for(one.claim(1, "t"), TIMEOUT)).job_id == job.id
    if era == "another":
        cluster.execute("UPDATE meta SET value = '2' WHERE key = 'epoch'")
    async with cluster.node("a") as one:
        assert await one.requeue(job.id, "t")
        phase = (await one.job(job.id)).phase
        is_lost = isinstance(phase, Done) and phase.end.ending is Ending.LOST
        assert (is_lost, (await one.job(job.id)).state) == ((True, "done") if era == "another" else (False, "queued"))
