"""Migrations: a state directory of each earlier schema can be opened; tests/histories has one of each."""

import errno
import os
import shutil
import sqlite3
import tarfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from shellrunner.model import (
    Callback,
    Delivery,
    Done,
    End,
    Ending,
    JobSpec,
    Leftover,
    Leftovers,
    Queued,
    Running,
    State,
    Submitter,
    Usage,
    Volume,
)
from shellrunner.model.filters import Filters
from shellrunner.sealing.key_files import KeyFiles
from shellrunner.store.pagination import Order, SortKey
from shellrunner.store.sqlite.schema import MIGRATIONS
from tests.support.histories import NOTHING, ended, everything, listed, opened
from tests.support.service import Service

HISTORIES = Path(__file__).parent / "histories"


def unpacked(number: int, path: Path) -> Path:
    with tarfile.open(HISTORIES / f"schema-{number}.tar.gz") as archive:
        archive.extractall(path, filter="data")
    return path


def holds(state: Path, word: str) -> bool:
    """Return whether any file in the directory contains the word."""
    return any(word.encode() in path.read_bytes() for path in state.rglob("*") if path.is_file())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state directory of the first schema: four jobs done, one deleted, one running, one queued."""
    return unpacked(1, tmp_path)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Return one of the second schema.

    Four jobs are done (one in two attempts), two deleted, one running, one in a paused queue, one waits for that.
    """
    return unpacked(2, tmp_path)


def test_there_is_one_of_each() -> None:
    """tests/histories has a history of each schema before today's."""
    assert {path.name for path in HISTORIES.iterdir()} == {
        f"schema-{number}.tar.gz" for number in range(1, len(MIGRATIONS))
    }


async def test_a_history_of_the_first_schema_is_all_there(state: Path) -> None:
    """Every job, end, byte and cancel request is read as it was, no old number is given again, and lists find it."""
    async with opened(state) as store:
        jobs = {job.id: job for job in await everything(store)}
        assert sorted(jobs) == [1, 2, 3, 4, 6, 7]
        end = End(Ending.EXITED, 2000, exit_code=3, started=1000, duration=1.0, usage=Usage(0.1, 0.2, 4096))
        assert jobs[1].phase == Done(end, Volume(21, 4))
        assert [extent.data for extent in await (await store.output(1)).read(0, 100)] == [
            "Привет, мир\n".encode(), b"oops",
        ]  # fmt: skip
        assert (jobs[2].spec.argv, jobs[2].spec.priority) == (("false",), 5)
        assert [job.id for job in await listed(store, endings=frozenset({Ending.LOST}))] == [3]
        assert jobs[4].phase == Done(End(Ending.EXITED, 5000, exit_code=0, started=4500, duration=0.1), None)
        assert isinstance(jobs[6].phase, Running)
        assert isinstance(jobs[7].phase, Queued)
        assert [claim.token for claim in await store.running()] == ["t6"]
        page = await store.page(Filters(text="ПРИВЕТ"), (), limit=10)
        assert [job.id for job in page.jobs] == [1]
        assert (await store.add(JobSpec(command="true"))).id == 9, "the numbers of deleted jobs are not given again"


@pytest.mark.heavy
async def test_a_service_continues_the_first(state: Path) -> None:
    """The job that ran then is lost, with the evidence and what its old slot still has; the queued one runs."""
    service = Service(state, STORE__RETENTION_DAYS=0)  # its jobs ended in 1970
    await service.start()
    try:
        lost = await service.result(6)
        assert lost["ending"] == "lost"
        assert lost["stdout"] == "half"
        assert (await service.result(7))["exit_code"] == 127
        assert (await service.status(7))["state"] == State.DONE
        assert (await service.result(1))["stdout"] == "Привет, мир\n"
    finally:
        await service.clear_away()
        shutil.rmtree(state / "slots", ignore_errors=True)


async def test_a_history_of_the_second_schema_is_all_there(second: Path) -> None:
    """Attempts, labels, queues, pauses and waits are as they were; jobs of that time have no submitter."""
    async with opened(second) as store:
        jobs = {job.id: job for job in await everything(store)}
        assert sorted(jobs) == [1, 2, 3, 4, 6, 7, 8]
        assert {(job.submitter, job.run_as) for job in jobs.values()} == {(None, None)}
        assert (jobs[2].attempt, (await store.attempt(2, 1)).end.exit_code) == (2, 1)
        assert [extent.data for extent in await (await store.output(2)).read(0, 100)] == [b"first\n"]
        assert [job.id for job in await listed(store, labels=(("team", "сеть"),))] == [1]
        assert (jobs[7].state, jobs[7].spec.queue, jobs[8].spec.after) == (State.QUEUED, "backups", (7,))
        assert jobs[8].state is State.WAITING
        assert [(claim.token, claim.run_as) for claim in await store.running()] == [("t6", None)]
        assert (await store.add(JobSpec(command="true"), by=Submitter("uid:7"))).id == 10
        assert [queue.name for queue in (await store.queues()).queues if queue.paused] == ["backups"]


@pytest.mark.heavy
async def test_a_service_continues_the_second(second: Path) -> None:
    """Once its queue is resumed the queued job runs, and the one that waited for it is skipped, as it failed."""
    service = Service(second, STORE__RETENTION_DAYS=0)
    await service.start()
    try:
        assert (await service.result(6))["stdout"] == "half"
        assert (await service.get("/api/jobs/7"))[2]["submitter"] is None
        await service.ask("POST", "/api/queues/backups/resume")
        assert (await service.result(7))["exit_code"] == 127
        assert (await service.result(8))["ending"] == "skipped"
    finally:
        await service.clear_away()


@pytest.mark.parametrize("number", range(1, 5))
async def test_secrets_of_earlier_schemas_are_sealed(tmp_path: Path, number: int) -> None:
    """What waited or ran keeps its values, of which nothing is in a file any more, in free pages neither."""
    state = unpacked(number, tmp_path)
    with sqlite3.connect(state / "history.db") as db:  # a secret of a job that ended, in pages that are free now
        db.executescript("PRAGMA secure_delete=OFF; CREATE TABLE gone (a)")
        db.executemany("INSERT INTO gone VALUES (?)", [("ended-секрет " * 1000,)] * 20)
    db.execute("DROP TABLE gone")
    db.close()
    assert {word for word in ("секрет", "ended-секрет") if holds(state, word)} == {"секрет", "ended-секрет"}
    async with opened(state) as store:
        assert not holds(state, "секрет")
        assert len([path for path in (state / "keys").iterdir() if len(path.name) == 32]) == 1
        await store.pause(None, paused=True)
        assert await store.requeue(6, "t6")
    async with opened(state) as store:
        await store.pause(None, paused=False)
        claims = [await store.claim(1, "new") for _ in range(1)]
        while claims[-1].job_id != 6:
            claims.append(await store.claim(1, f"new-{len(claims)}"))
        assert claims[-1].spec.stdin == "секрет"
        assert not holds(state, "секрет")


async def test_a_history_that_cannot_be_rebuilt_is_used_all_the_same(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without space for sealing, jobs keep their values, the log says so, and the next start seals them."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(KeyFiles, "create", full)
        async with opened(state) as store:
            assert holds(state, "секрет")
            assert "may still be readable" in caplog.text
            assert await store.requeue(6, "t6")
            assert (await store.claim(1, "new")).spec.stdin == "секрет"
    async with opened(state):
        assert not holds(state, "секрет")


@pytest.fixture
def third(tmp_path: Path) -> Path:
    """Return one of the third schema.

    Six jobs are done (one in two attempts, one with a callback whose try failed), two deleted, two running (one whose
    cancellation was requested), one in a paused queue; one waits for that, one for its second attempt; a session.
    """
    return unpacked(3, tmp_path)


async def test_a_history_of_the_third_schema_is_all_there(third: Path) -> None:
    """Times of claims, submitters, callbacks, sessions and requests to cancel are as they were."""
    async with opened(third) as store:
        jobs = {job.id: job for job in await everything(store)}
        assert sorted(jobs) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        assert [(jobs[number].submitter, jobs[number].run_as) for number in (1, 2, 3)] == [
            ("token:ci", "nobody"), ("uid:1000", None), (None, None),
        ]  # fmt: skip
        end = End(Ending.EXITED, 2000, exit_code=3, started=1000, duration=1.0, usage=Usage(0.1, 0.2, 4096))
        assert jobs[1].phase == Done(end, Volume(21, 4))
        assert [claim.job_id for claim in await store.running()] == [6, 11]
        assert [claim.token for claim in await store.cancelling()] == ["t11"]
        (claim, _) = await store.running()
        assert claim.claimed == 1795857194313
        assert jobs[6].phase == Running(1795857194313)
        assert jobs[9].callback == Callback(Delivery.PENDING, 1, "no answer")
        assert (jobs[10].state, jobs[10].attempt) == (State.WAITING, 2)
        assert [session.token for session in await store.sessions()] == ["ab" * 32]
        assert (await store.add(JobSpec(command="true"))).id == 13
        by_start = await store.page(Filters(), (Order(SortKey.STARTED, descending=False),), limit=10)
        assert [job.id for job in by_start.jobs][:5] == [1, 2, 4, 9, 3], "no running job counts as started"


async def test_a_job_that_was_claimed_under_the_third_schema_can_end(third: Path) -> None:
    """Its start is what the keeper reports, not when it was claimed; a second attempt of it can be claimed."""
    async with opened(third) as store:
        assert await store.finish(6, "t6", ended(completed=3_000, started=2_500), *NOTHING)
        phase = (await store.job(6)).phase
        assert isinstance(phase, Done)
        assert phase.end.started == 2_500
        assert await store.requeue(11, "t11")
        assert (await store.job(11)).phase == Done(End(Ending.CANCELLED, ANY), Volume())


@pytest.fixture
def fourth(tmp_path: Path) -> Path:
    """Return one of the fourth schema.

    Four jobs are done (one in two attempts, one whose result was deleted), one deleted, two running (one whose
    cancellation was requested), one in a paused queue; one waits for that, one for its time.
    """
    return unpacked(4, tmp_path)


async def test_a_history_of_the_fourth_schema_is_all_there(fourth: Path) -> None:
    """Every end is as it was, with nothing known of what its command left behind; new ends have that."""
    async with opened(fourth) as store:
        jobs = {job.id: job for job in await everything(store)}
        assert sorted(jobs) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        end = End(Ending.EXITED, 2000, exit_code=3, started=1000, duration=1.0, usage=Usage(0.1, 0.2, 4096))
        assert jobs[1].phase == Done(end, Volume(21, 4))
        first = await store.attempt(2, 1)
        assert (first.end.exit_code, first.end.leftovers) == (1, None)
        assert [claim.token for claim in await store.cancelling()] == ["t7"]
        leftovers = Leftovers((Leftover(5, "sleep 60 'ждать'"),), 7)
        assert await store.finish(6, "t6", replace(ended(), leftovers=leftovers), *NOTHING)
        assert (await store.attempt(6, 1)).end.leftovers == leftovers
        assert (await store.add(JobSpec(command="true"))).id == 11


@pytest.mark.heavy
async def test_a_service_continues_the_fourth(fourth: Path) -> None:
    """What ran then is lost, with what its slot still has; what waited runs."""
    service = Service(fourth, STORE__RETENTION_DAYS=0)
    await service.start()
    try:
        assert (await service.result(6))["stdout"] == "half"
        assert {(await service.result(number))["ending"] for number in (6, 7)} == {"lost"}
        assert (await service.result(2))["stdout"] == "second\n"
        await service.ask("POST", "/api/queues/backups/resume")
        assert (await service.result(8))["stdout"] == "queued\n"
        assert (await service.result(9))["exit_code"] == 127
        assert (await service.get("/api/queues"))[2]["paused"] is False, "slots without home are no reason to hold it"
    finally:
        await service.clear_away()


@pytest.fixture
def fifth(tmp_path: Path) -> Path:
    """Return one of the fifth schema.

    Five jobs are done (one of them left processes behind), one deleted, one running, two in a paused queue (one with
    sealed secrets); one waits for one of those, two for their time, one for its second attempt.
    """
    return unpacked(5, tmp_path)


async def test_a_history_of_the_fifth_schema_is_all_there(fifth: Path) -> None:
    """Ends, leftovers, attempts, dependencies and sealed secrets are as they were."""
    async with opened(fifth) as store:
        jobs = {job.id: job for job in await everything(store)}
        assert sorted(jobs) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13]
        leftovers = Leftovers((Leftover(5, "sleep 60 'ждать'"),), 7)
        end = End(Ending.CANCELLED, 9000, signal="SIGKILL", started=8000, duration=1.0, leftovers=leftovers)
        assert jobs[7].phase == Done(end, Volume())
        assert (jobs[12].state, jobs[12].attempt) == (State.WAITING, 2)
        assert [jobs[number].state for number in (9, 10, 13)] == [State.WAITING] * 3
        assert [job.id for job in await listed(store, labels=(("team", "ops"),))] == [12]
        await store.pause("backups", paused=False)
        assert (await store.claim(1, "first")).job_id == 8
        claim = await store.claim(2, "second")
        assert (claim.job_id, claim.spec.stdin, dict(claim.spec.env)) == (11, "секрет", {"SECRET": "секрет"})
        assert claim.kill_only
        assert await store.finish(8, "first", ended(), *NOTHING)
        assert (await store.claim(3, "third")).job_id == 9
        assert (await store.add(JobSpec(command="true"))).id == 14


@pytest.mark.heavy
async def test_a_service_continues_the_fifth(fifth: Path) -> None:
    """What ran then is lost, with what its slot still has; what waited runs, with its secrets.

    Whether an earlier job had text for standard input is not known, so nothing runs again without it.
    """
    service = Service(fifth, STORE__RETENTION_DAYS=0)
    await service.start()
    try:
        assert (await service.result(6))["stdout"] == "half"
        assert (await service.get("/api/queues"))[2]["paused"] is False, "nothing is held"
        await service.ask("POST", "/api/queues/backups/resume")
        assert (await service.result(8))["stdout"] == "queued\n"
        assert (await service.result(11))["stdout"] == "секретсекрет\n"
        for number, errors in ((8, ["#/stdin"]), (11, ["#/env/SECRET", "#/stdin"])):
            status, _, problem = await service.ask("POST", f"/api/jobs/{number}/again", json={})
            assert (status, [error["pointer"] for error in problem["errors"]]) == (422, errors)
        _, _, again = await service.ask("POST", "/api/jobs/8/again", json={"stdin": None, "queue": None})
        status, _, _ = await service.ask("POST", f"/api/jobs/{again['job_id']}/again", json={})
        assert status == 202, "of its own jobs it knows whether they had input"
    finally:
        await service.clear_away()
