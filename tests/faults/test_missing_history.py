"""C4 and C7: the history is taken away under the server, or the log cannot be written: not ready, 503, and no 202."""

import asyncio
import os
import resource
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shellrunner.supervisor.supervisor import SPARE_KEEPERS
from tests.support.processes import parent
from tests.support.service import Service
from tests.support.waiting import until


def _remove(state: Path) -> None:
    (state / "history.db").unlink()


def _remove_all(state: Path) -> None:
    for path in state.glob("history.db*"):
        path.unlink()


def _remove_log(state: Path) -> None:
    (state / "history.db-wal").unlink()


def _replace(state: Path) -> None:
    shutil.copy2(state / "history.db", state / "copy")
    os.rename(state / "copy", state / "history.db")


def _truncate(state: Path) -> None:
    os.truncate(state / "history.db", 0)


def _truncate_log(state: Path) -> None:
    os.truncate(state / "history.db-wal", 0)


def _replace_by_directory(state: Path) -> None:
    (state / "history.db").unlink()
    (state / "history.db").mkdir()


def _remove_directory(state: Path) -> None:
    os.rename(state, state.with_name("elsewhere"))
    shutil.rmtree(state.with_name("elsewhere"), ignore_errors=True)


TAKEN: dict[str, Callable[[Path], None]] = {
    "removed": _remove,
    "all removed": _remove_all,
    "log removed": _remove_log,
    "replaced": _replace,
    "truncated": _truncate,
    "log truncated": _truncate_log,
    "replaced by a directory": _replace_by_directory,
    "directory removed": _remove_directory,
}


SHORT = {"removed", "log removed", "replaced"}


@pytest.fixture
def how(request: pytest.FixtureRequest, whole: bool) -> str:
    if not whole and request.param not in SHORT:
        pytest.skip("only with --faults whole")
    return str(request.param)


@pytest.mark.parametrize("how", TAKEN, indirect=True)
async def test_c4_a_history_that_is_taken_away_accepts_nothing(how: str, service: Service, tmp_path: Path) -> None:
    """C4: from the moment history.db or its log is gone, every submission is 503, nothing starts, /readyz says it."""
    await service.run("true")
    TAKEN[how](service.state_dir)
    for _ in range(3):
        status, _, problem = await service.ask("POST", "/api/jobs", json={"command": f"touch {tmp_path}/ran"})
        assert (status, problem["type"]) == (503, "/problems/store-unavailable")
        assert "history.db" in problem["detail"]
    status, _, problem = await service.get("/readyz")
    assert status == 503
    assert "store-unavailable" in problem["reasons"]
    for verb, path in (
        ("POST", "/api/queues/pause"),
        ("DELETE", "/api/jobs?confirm=true"),
        ("DELETE", "/api/jobs/1"),
    ):
        assert (await service.ask(verb, path))[0] == 503
    assert not (tmp_path / "ran").exists()
    assert any("not ready" in line["event"] and "history.db" in line["event"] for line in service.log)


@pytest.mark.heavy
async def test_c4_it_is_noticed_without_a_submission(service: Service) -> None:
    """C4: /readyz looks for itself, at most a second later."""
    assert (await service.get("/readyz"))[0] == 200
    _remove(service.state_dir)

    async def not_ready() -> bool:
        return (await service.get("/readyz"))[0] == 503

    await until(not_ready, 4)


@pytest.mark.parametrize("what", ["history.db", "history.db-wal", "."])
async def test_c4_what_is_put_back_is_used_again(service: Service, what: str) -> None:
    """C4: a file, or the whole directory, that was moved away and comes back is used again, without a restart."""
    path = service.state_dir / what
    os.rename(path, service.state_dir.parent / "aside")
    assert (await service.ask("POST", "/api/jobs", json={"command": "true"}))[0] == 503
    os.rename(service.state_dir.parent / "aside", path)
    assert (await service.run("echo back"))["stdout"] == "back\n"
    assert (await service.get("/readyz"))[0] == 200


@pytest.mark.heavy
async def test_c4_an_end_waits_for_the_history(service: Service, tmp_path: Path) -> None:
    """C4: what ends while the history is away is recorded when it is back, with its true code."""
    job = await service.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit 7")
    await service.running(job)
    path = service.state_dir / "history.db"
    os.rename(path, tmp_path / "aside")
    (tmp_path / "go").touch()
    await until(lambda: any(line["event"] == "could not record an end; retrying" for line in service.log))
    os.rename(tmp_path / "aside", path)
    assert (await service.result(job))["exit_code"] == 7


_CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE);"
_SHRINK = f"CREATE TABLE big AS SELECT zeroblob(1000000); {_CHECKPOINT} DROP TABLE big; VACUUM; {_CHECKPOINT}"


@pytest.mark.heavy
@pytest.mark.parametrize("statements", [_CHECKPOINT, _SHRINK], ids=["checkpoint", "vacuum"])
async def test_c4_what_another_program_does_in_order_is_no_damage(service: Service, statements: str) -> None:
    """C4: another program checkpoints or vacuums the open history: jobs are accepted, and are there after a kill."""
    await service.run("true")
    program = f"import sqlite3; sqlite3.connect('history.db', isolation_level=None).executescript({statements!r})"
    before = (service.state_dir / "history.db-wal").stat().st_size
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=service.state_dir)
    assert await other.wait() == 0
    assert (service.state_dir / "history.db-wal").stat().st_size < before
    job = await service.submit("echo on")
    assert (await service.result(job))["stdout"] == "on\n"
    await service.restart()
    assert (await service.result(job))["stdout"] == "on\n"
    _truncate_log(service.state_dir)
    assert (await service.ask("POST", "/api/jobs", json={"command": "true"}))[0] == 503


@asynccontextmanager
async def unheard(tmp_path: Path, stderr: int) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a server whose log goes to this descriptor; yield a client of it."""
    path = tmp_path / "front"
    command = [sys.executable, "-m", "shellrunner", "serve", "--listen", f"unix:{path}"]
    server = await asyncio.create_subprocess_exec(*command, "--state-dir", str(tmp_path / "state"), stderr=stderr)
    try:
        await until(path.exists, what="it listens")
        async with aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path))) as client:
            yield client
    finally:
        server.terminate()
        await server.wait()
        await Service(tmp_path / "state").clear_away()


async def readiness(client: aiohttp.ClientSession) -> tuple[int, Any]:
    async with client.get("/readyz") as response:
        return response.status, await response.json() if response.status == 503 else None


async def submission(client: aiohttp.ClientSession) -> tuple[int, str]:
    async with client.post("/api/jobs", json={"command": "true"}) as response:
        return response.status, (await response.json()).get("type", "")


@pytest.mark.heavy
async def test_c7_a_log_that_refuses_everything_is_not_ready(tmp_path: Path) -> None:
    """C7: with stderr on /dev/full, /readyz is 503 and names the audit log, before any submission was refused."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        async with unheard(tmp_path, full) as client:
            status, problem = await readiness(client)
            assert (status, problem["reasons"]) == (503, ["audit-unavailable"])
            assert await submission(client) == (503, "/problems/audit-unavailable")
    finally:
        os.close(full)


@pytest.mark.heavy
async def test_c7_a_log_that_is_read_again_is_ready_again(tmp_path: Path) -> None:
    """C7: a pipe that is full is not ready; once its reader goes on, the service is ready by itself, and accepts."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        async with unheard(tmp_path, writing) as client:

            async def full() -> bool:
                return (await submission(client))[1] == "/problems/audit-unavailable"

            await until(full, what="the pipe is full")
            assert (await readiness(client))[1]["reasons"] == ["audit-unavailable"]

            async def ready() -> bool:
                os.read(reading, 1 << 20)
                return (await readiness(client))[0] == 200

            await until(ready)
            assert (await submission(client))[0] == 202
    finally:
        os.close(reading)
        os.close(writing)


async def test_c7_a_full_queue_is_not_ready(down: Service) -> None:
    """C7: while the limit of queued jobs is reached, /readyz is 503; when one is cancelled, it is 200."""
    service = await down.start(SUPERVISOR__MAX_QUEUED=1, SUPERVISOR__MAX_RUNNING=1)
    await service.running(await service.submit("sleep 60"))
    job = await service.submit("true")
    assert (await service.get("/readyz"))[2]["reasons"] == ["queue-full"]
    assert (await service.ask("POST", "/api/jobs", json={"command": "true"}))[0] == 503
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    assert (await service.get("/readyz"))[0] == 200


@pytest.mark.heavy
async def test_c7_keepers_that_cannot_be_started_are_not_ready(down: Service) -> None:
    """C7: while the fork server cannot start keepers, /readyz says so; afterwards it is ready again."""
    service = await down.start(SUPERVISOR__MAX_RUNNING=20)
    fork_server = parent((await until(service.keepers))[0].pid)
    limits = resource.prlimit(fork_server, resource.RLIMIT_FSIZE)
    resource.prlimit(fork_server, resource.RLIMIT_FSIZE, (4096, limits[1]))
    for _ in range(8):  # as many as wait for jobs
        await service.submit("sleep 60")

    async def reasons() -> Any:
        status, _, body = await service.get("/readyz")
        return body["reasons"] if status == 503 else []

    await until(lambda: _is(reasons, ["no-keeper"]))
    resource.prlimit(fork_server, resource.RLIMIT_FSIZE, limits)
    await until(lambda: _is(reasons, []))
    assert (await service.run("echo on"))["stdout"] == "on\n"


@pytest.mark.heavy
async def test_a_keeper_that_cannot_write_its_slot_fails_one_job(down: Service) -> None:
    """It takes no other, or every queued job would fail at it within a second; a new keeper runs the next one."""
    service = await down.start(SUPERVISOR__MAX_RUNNING=1)
    await until(lambda: len(service.keepers()) == 1 + SPARE_KEEPERS)
    keepers = service.keepers()
    for keeper in keepers:
        hard = resource.prlimit(keeper.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(keeper.pid, resource.RLIMIT_FSIZE, (4096, hard))
    jobs = [await service.submit(f"echo {number}") for number in range(20)]
    results = [await service.result(job) for job in jobs]
    failed = [result for result in results if result["ending"] == "failed_to_start"]
    assert {result["detail"] for result in failed} == {"its start could not be recorded: File too large"}
    assert len(failed) == len(keepers)
    assert all(result["ending"] == "exited" for result in results if result not in failed)
    assert {keeper.pid for keeper in service.keepers()}.isdisjoint(keeper.pid for keeper in keepers)


async def _is(reasons: Callable[[], Awaitable[Any]], expected: list[str]) -> bool:
    return bool(await reasons() == expected)
