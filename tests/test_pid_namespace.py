"""As process 1 of a PID namespace, as in a container: no command outlives the service, and it inherits orphans."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from benchmarks.process_tree import children

from tests.support.service import Service
from tests.support.waiting import until

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc"]


def may_unshare() -> bool:
    return shutil.which("unshare") is not None and not subprocess.run([*UNSHARE, "true"], check=False).returncode


@pytest.fixture
async def contained(tmp_path: Path) -> AsyncIterator[Service]:
    """Yield a service, still to be started, that will be process 1."""
    if not may_unshare():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("making a PID namespace needs root and unshare(1)")
    service = Service(tmp_path / "state", real_exec=True)
    service.program = [*UNSHARE, sys.executable, "-m", "shellrunner", "serve", "--port", "0"]
    yield service
    await service.clear_away()


def process_one(service: Service) -> int:
    (pid,) = children(service.process.pid)
    return pid


def state_of(pid: int) -> str | None:
    """Return the state of a process; None if it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return None


async def stopped(service: Service) -> int:
    os.kill(process_one(service), signal.SIGTERM)
    return await service.ended()


@pytest.mark.heavy
async def test_keep_is_cancel_where_nothing_can_be_kept(contained: Service) -> None:
    """It warns at the start; a stop cancels what runs, is 0, and does not claim that jobs continue."""
    await contained.start()
    assert any("PID namespace" in line["event"] for line in contained.log if line["level"] == "warning")
    job = await contained.submit("trap 'echo saved; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    assert await contained.printed(job) == b"ready\n"  # its trap is set
    assert await stopped(contained) == 0
    assert contained.log[-1]["event"] == "stopped"
    await contained.start()
    result = await contained.result(job)
    assert (result["ending"], result["stdout"]) == ("cancelled", "ready\nsaved\n")
    await stopped(contained)


@pytest.mark.heavy
async def test_drain_waits_there_too(contained: Service, tmp_path: Path) -> None:
    """With on_stop=drain there is no warning, and a stop waits for the job's own end."""
    await contained.start(SUPERVISOR__ON_STOP="drain")
    assert not any("PID namespace" in line["event"] for line in contained.log)
    job = await contained.submit(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; exit 4")
    await contained.running(job)
    os.kill(process_one(contained), signal.SIGTERM)
    await until(lambda: any(line["event"] == "waiting for running jobs" for line in contained.log))
    (tmp_path / "go").touch()
    await contained.ended()
    await contained.start()
    assert (await contained.result(job))["exit_code"] == 4
    await stopped(contained)


@pytest.mark.heavy
async def test_orphans_of_process_1_are_reaped(contained: Service) -> None:
    """With the fork server killed, keepers become children of the service, as what they leave: no zombie stays."""
    await contained.start()
    one = process_one(contained)
    job = await contained.submit("sleep 60")
    await contained.running(job)
    (fork_server,) = children(one)
    keepers = children(fork_server)
    assert keepers
    os.kill(fork_server, signal.SIGKILL)
    await until(lambda: fork_server not in children(one))
    for keeper in keepers:
        os.kill(keeper, signal.SIGKILL)
    assert (await contained.result(job))["ending"] == "lost"
    await until(lambda: not [pid for pid in children(one) if state_of(pid) == "Z"])
    assert (await contained.run("echo on"))["stdout"] == "on\n"
    await stopped(contained)
