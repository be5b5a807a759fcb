"""S8: a disk of a few megabytes, full: what frees space or records an end works, nothing else eats the reserve."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service
from tests.support.waiting import until

Need = Callable[[bool, str], None]


@pytest.fixture
def disk(tmp_path: Path, need: Need) -> Iterator[Path]:
    """Yield a directory on a file system of 16 MiB."""
    need(os.geteuid() == 0, "mounting a small disk needs root")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], check=False)
    need(mounted.returncode == 0, "there is no right to mount")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
async def small(disk: Path) -> AsyncIterator[Service]:
    """Yield a running service on the small disk."""
    service = Service(disk / "state")
    yield await service.start()
    (disk / "fill").unlink(missing_ok=True)
    await service.clear_away()


def fill(path: Path) -> None:
    """Fill the disk to the last byte."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


async def submitted(service: Service, command: str = "true") -> int:
    status, _, _ = await service.ask("POST", "/api/jobs", json={"command": command})
    return status


async def ready(service: Service) -> bool:
    return (await service.get("/readyz"))[0] == 200


@pytest.mark.heavy
async def test_s8_on_a_full_disk_only_what_frees_or_ends_is_written(small: Service, disk: Path) -> None:
    """S8: ends, cancels and deletes go on after the first of them; of 200 submissions none eats the reserve."""
    done = [await small.submit("head -c 60000 /dev/zero") for _ in range(3)]
    for job in done:
        await small.result(job)
    jobs = [await small.submit(f"until [ -e {disk.parent}/go{n} ]; do sleep 0.01; done; exit 7") for n in range(6)]
    waiting = [await small.submit("true", start_at="2999-01-01T00:00:00Z") for _ in range(3)]
    for job in jobs:
        await small.running(job)
    fill(disk / "fill")
    for number, job in enumerate(jobs[:3]):
        (disk.parent / f"go{number}").touch()
        assert (await small.result(job))["exit_code"] == 7
        statuses = [await submitted(small, f"echo {'x' * 50_000}") for _ in range(40)]
        assert set(statuses) <= {503, 507}
        assert not await ready(small)
        assert (await small.ask("DELETE", f"/api/jobs/{done.pop()}"))[0] == 204
        assert (await small.ask("POST", f"/api/jobs/{waiting.pop()}/cancel"))[0] == 202
        assert (await small.ask("POST", f"/api/jobs/{jobs[3 + number]}/cancel"))[0] == 202
        assert (await small.result(jobs[3 + number]))["ending"] == "cancelled"
    (disk / "fill").unlink()
    assert (await small.run("echo on"))["stdout"] == "on\n"
    await until(lambda: ready(small))
    assert (disk / "state" / "ballast").stat().st_size == 4 << 20


@pytest.mark.heavy
async def test_s8_another_program_that_takes_the_space_leaves_it_not_ready(small: Service, disk: Path) -> None:
    """S8: while another program takes every free byte, /readyz is not 200; ends are recorded once there is space."""
    job = await small.submit(f"until [ -e {disk.parent}/go ]; do sleep 0.01; done; exit 7")
    await small.running(job)
    thief = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", f"while :; do cat /dev/zero >> {disk}/fill; done", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: os.statvfs(disk).f_bfree == 0)
        await until(lambda: _never(submitted(small), 202))
        (disk.parent / "go").touch()
        answers = [await submitted(small) for _ in range(20)]
        assert set(answers) <= {503, 507}
        assert not await ready(small)
    finally:
        thief.kill()
        await thief.wait()
    assert not await ready(small)
    (disk / "fill").unlink()
    assert (await small.result(job))["exit_code"] == 7
    await until(lambda: ready(small))
    assert await submitted(small) == 202


async def _never(answer: Any, unwanted: int) -> bool:
    return bool(await answer != unwanted)


@pytest.mark.heavy
async def test_s8_below_the_configured_space_no_job_is_accepted(disk: Path) -> None:
    """S8: with fewer bytes free than store.min_free_bytes a submission is 507, /readyz says it, a delete works."""
    service = await Service(disk / "state").start(STORE__MIN_FREE_BYTES=12 << 20)
    try:
        _, _, problem = await service.ask("POST", "/api/jobs", json={"command": "true"})
        assert (problem["status"], problem["type"]) == (507, "/problems/no-space")
        assert (await service.get("/readyz"))[2]["reasons"] == ["no-space"]
        await service.kill()
        await service.start(STORE__MIN_FREE_BYTES=0)
        done = await service.submit("true")
        await service.result(done)
        await service.kill()
        await service.start(STORE__MIN_FREE_BYTES=12 << 20)
        assert (await service.ask("DELETE", f"/api/jobs/{done}"))[0] == 204
    finally:
        await service.clear_away()
