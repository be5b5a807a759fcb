"""A state directory of each earlier schema opens for ever: tests/histories has one of each, with its slot."""

import shutil
import tarfile
from pathlib import Path

import pytest

from shellrunner.model import Done, End, Ending, JobSpec, Queued, Running, State, Usage, Volume
from shellrunner.store import Filters
from shellrunner.store.schema import MIGRATIONS
from tests.service import Service
from tests.store.histories import everything, listed, opened

HISTORIES = Path(__file__).parent / "histories"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The directory that the first schema's program left: four jobs done, one deleted, one running, one queued."""
    with tarfile.open(HISTORIES / "schema-1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_there_is_one_of_each() -> None:
    """No schema before today's is without a history."""
    assert {path.name for path in HISTORIES.iterdir()} == {
        f"schema-{number}.tar.gz" for number in range(1, len(MIGRATIONS))
    }


async def test_a_history_of_the_first_schema_is_all_there(state: Path) -> None:
    """Every job, end, byte and wish of it is read as it was, nothing is given an old number, and lists find it."""
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
        assert [(claim.token, claim.spec.stdin) for claim in await store.running()] == [("t6", "секрет")]
        page = await store.page(Filters(text="ПРИВЕТ"), (), limit=10)
        assert [job.id for job in page.jobs] == [1]
        assert (await store.add(JobSpec(command="true"))).id == 9, "the numbers of deleted jobs are not given again"


async def test_a_service_takes_it_up(state: Path) -> None:
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
