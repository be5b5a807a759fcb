"""C8: a sync that fails during COMMIT, and a kill right after the answer: what was answered is true."""

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.failing_syncs import FailingSyncs
from tests.support.service import Service
from tests.support.waiting import until

Need = Callable[[bool, str], None]


@pytest.fixture
def syncs(tmp_path: Path, need: Need) -> FailingSyncs:
    need(shutil.which("gcc") is not None, "a library that lets fsync(2) fail needs gcc")
    return FailingSyncs(tmp_path).build()


@pytest.fixture
async def failing(down: Service, syncs: FailingSyncs) -> Service:
    """Return a running service whose syncs can be made to fail, and which has written what it writes at its start."""
    syncs.preload(down)
    down.program = [sys.executable, "-m", "tests.support.quiet_server", "serve", "--port", "0"]
    await down.start(SUPERVISOR__MAX_RUNNING=2)
    assert (await down.ask("POST", "/api/queues/resume", json={}))[0] == 200
    return down


async def killed_after(
    service: Service, syncs: FailingSyncs, number: int, verb: str, path: str, **options: Any
) -> Any:
    """Let syncs fail during this request, then kill the server; return the answer. It is started again without."""
    syncs.arm(number)
    status, _, problem = await service.ask(verb, path, **options)
    assert status == 503
    await service.kill()
    del service.environment["LD_PRELOAD"]
    await service.start()
    return problem


@pytest.mark.heavy
async def test_c8_a_submission_whose_commit_failed_is_not_there_after_a_kill(
    failing: Service, syncs: FailingSyncs, tmp_path: Path
) -> None:
    """C8: EIO when the log is synced: 503 says that nothing was done, and after kill -9 no job is there or runs."""
    proof = tmp_path / "ran"
    before = await failing.submit("true")
    await failing.result(before)
    problem = await killed_after(failing, syncs, 1, "POST", "/api/jobs", json={"command": f"touch {proof}"})
    assert problem["type"] == "/problems/store-unavailable"
    _, _, body = await failing.get("/api/jobs")
    assert before in [job["job_id"] for job in body["jobs"]]
    assert [job["command"] for job in body["jobs"] if "touch" in job["command"]] == []
    await failing.run("true")
    assert not proof.exists()


@pytest.mark.heavy
async def test_c8_where_nothing_can_be_undone_the_answer_is_that_it_is_not_known(
    failing: Service, syncs: FailingSyncs, tmp_path: Path
) -> None:
    """C8: if the undoing fails too, the answer says that it is not known, and a retry with the key makes one job."""
    headers = {"Idempotency-Key": '"once"'}
    request = {"json": {"command": f"echo x >> {tmp_path}/ran"}, "headers": headers}
    problem = await killed_after(failing, syncs, 1000, "POST", "/api/jobs", **request)
    assert problem["type"] == "/problems/outcome-unknown"
    status, _, job = await failing.ask("POST", "/api/jobs", **request)
    assert status == 202
    await failing.result(job["job_id"])
    assert (tmp_path / "ran").read_text() == "x\n"
    _, _, body = await failing.get("/api/jobs")
    assert [each["job_id"] for each in body["jobs"] if "echo x" in each["command"]] == [job["job_id"]]


@pytest.mark.heavy
async def test_c8_a_batch_is_there_as_a_whole_or_not_at_all(
    failing: Service, syncs: FailingSyncs, tmp_path: Path
) -> None:
    """C8: a batch whose commit failed has no job after a kill; the retry with its key has all of them, once each."""
    jobs = [{"command": f"echo {number} >> {tmp_path}/ran", "env": {"A": "b"}} for number in range(20)]
    request = {"json": {"jobs": jobs}, "headers": {"Idempotency-Key": '"all"'}}
    problem = await killed_after(failing, syncs, 1, "POST", "/api/jobs/batch", **request)
    assert problem["type"] == "/problems/store-unavailable"
    assert (await failing.get("/api/jobs"))[2]["jobs"] == []
    assert not list(failing.state_dir.glob("keys/[0-9a-f]*"))
    status, _, accepted = await failing.ask("POST", "/api/jobs/batch", **request)
    assert status == 202
    for job in accepted["jobs"]:
        await failing.result(job["job_id"])
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(20))


@pytest.mark.heavy
async def test_a_batch_whose_server_is_killed_is_there_as_a_whole_or_not_at_all(
    service: Service, tmp_path: Path
) -> None:
    """kill -9 before, while and after it is committed: none or all of its jobs; the retry has all, once each."""
    wal = service.state_dir / "history.db-wal"
    total = 0
    for moment in ("accepted", "written", "answered"):
        size, lines = wal.stat().st_size, len(service.log)
        command = f">> {tmp_path}/{moment}; : {'x' * 2000}"
        body = {"jobs": [{"command": f"echo {number} {command}"} for number in range(30)]}
        request = {"json": body, "headers": {"Idempotency-Key": moment}}
        asking = asyncio.create_task(service.ask("POST", "/api/jobs/batch", **request))
        reached = {
            "accepted": lambda: any(line["event"] == "accepted" for line in service.log[lines:]),  # noqa: B023
            "written": lambda: wal.stat().st_size != size,  # noqa: B023
            "answered": asking.done,
        }
        await until(reached[moment], what=moment)
        await service.kill()
        await asyncio.gather(asking, return_exceptions=True)
        await service.start()
        found = (await service.get("/api/jobs?limit=1000"))[2]["jobs"]
        assert len(found) - total in ((30,) if moment == "answered" else (0, 30))
        status, _, accepted = await service.ask("POST", "/api/jobs/batch", **request)
        assert (status, len({job["job_id"] for job in accepted["jobs"]})) == (202, 30)
        for job in accepted["jobs"]:
            await service.result(job["job_id"])
        assert sorted(map(int, (tmp_path / moment).read_text().split())) == list(range(30))
        total += 30
        assert len((await service.get("/api/jobs?limit=1000"))[2]["jobs"]) == total


@pytest.mark.heavy
async def test_c7_syncs_that_fail_are_a_reason_not_to_be_ready(failing: Service, syncs: FailingSyncs) -> None:
    """C7: /readyz says that the history is unavailable; only a single request can have an unknown outcome."""
    syncs.arm(1_000)
    status, _, _ = await failing.ask("POST", "/api/jobs", json={"command": "true"})
    assert status == 503
    status, _, body = await failing.get("/readyz")
    assert (status, body["reasons"]) == (503, ["store-unavailable"])


ROUTES = {
    "cancel": ("POST", "/api/jobs/{queued}/cancel"),
    "delete": ("DELETE", "/api/jobs/{done}"),
    "delete the result": ("DELETE", "/api/results/{done}"),
    "delete by filter": ("DELETE", "/api/jobs?confirm=true&state=done"),
    "pause": ("POST", "/api/queues/pause"),
}


@pytest.fixture
def name(request: pytest.FixtureRequest, whole: bool) -> str:
    if not whole and request.param not in ("cancel", "delete by filter"):
        pytest.skip("only with --faults whole")
    return str(request.param)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ROUTES, indirect=True)
async def test_c8_every_other_change_is_undone_too(name: str, failing: Service, syncs: FailingSyncs) -> None:
    """C8: after a 503 and a kill, the job is neither cancelled nor deleted, no queue is paused."""
    done = await failing.submit("echo here")
    await failing.result(done)
    queued = await failing.submit("true", start_at="2999-01-01T00:00:00Z")
    verb, path = ROUTES[name]
    problem = await killed_after(failing, syncs, 1, verb, path.format(queued=queued, done=done))
    assert problem["type"] == "/problems/store-unavailable"
    assert (await failing.status(queued))["state"] == "waiting"
    assert (await failing.result(done))["stdout"] == "here\n"
    _, _, queues = await failing.get("/api/queues")
    assert not queues["paused"]


@pytest.mark.heavy
async def test_c8_an_end_whose_commit_failed_is_recorded_later(
    failing: Service, syncs: FailingSyncs, tmp_path: Path
) -> None:
    """C8: syncs fail while jobs end: the ends are tried again, and recorded as they were, also over a kill."""
    jobs = [await failing.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit {code}") for code in (3, 4)]
    for job in jobs:
        await failing.running(job)
    syncs.arm(1000)
    (tmp_path / "go").touch()
    await until(lambda: any(line["event"] == "could not record an end; retrying" for line in failing.log))
    syncs.arm(0)
    assert [(await failing.result(job))["exit_code"] for job in jobs] == [3, 4]
    await failing.restart()
    assert [(await failing.result(job))["exit_code"] for job in jobs] == [3, 4]
