"""What the service uses does not grow with what it has done: compared as slopes, after a warm-up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.faults.chaos.injection import Processes
from tests.faults.footprint import Footprint, growing, measure
from tests.support.service import Service
from tests.support.users import sees_keepers
from tests.support.waiting import until

pytestmark = sees_keepers


@pytest.fixture
async def service(tmp_path: Path, whole: bool) -> AsyncIterator[Service]:
    """Yield a service; where memory is measured, it was started as a program, so that its memory is its own."""
    service = Service(tmp_path / "state", real_exec=whole)
    try:
        await service.start(JOBS__KILL_GRACE=0.2, SUPERVISOR__MAX_RUNNING=2)
        yield service
    finally:
        await service.clear_away()


@pytest.fixture
def load(service: Service, whole: bool) -> "Load":
    """Return a load on the service."""
    return Load(service, whole=whole)


_WAIT: Final = {"Prefer": "wait=20"}


class Load:
    """Gives a service work in batches, with connections that are closed after each."""

    def __init__(self, service: Service, *, whole: bool) -> None:
        """Work on a running service; `whole`: in more batches, and memory is measured too."""
        self._service, self._whole = service, whole
        self._processes = Processes(service.state_dir, "leaks")

    async def run_all(self, count: int, **spec: object) -> None:
        """Run `count` jobs to their end, a few at a time."""
        places = asyncio.Semaphore(8)
        async with aiohttp.ClientSession() as session:

            async def run_one() -> None:
                url = f"{self._service.url}/api/jobs"
                async with (
                    places,
                    session.post(url, json={**spec, "env": {"CHAOS": "leaks-1"}}, headers=_WAIT) as response,
                ):
                    assert response.status == 200, await response.text()

            await asyncio.gather(*(run_one() for _ in range(count)))

    async def cut_followers(self, job: int, count: int) -> None:
        """Follow a running job `count` times, each by events and as plain output, and break the connections."""
        host, port = urlsplit(self._service.url).netloc.split(":")

        async def cut_one(path: str) -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET /api/statuses/{job}/{path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
            writer.transport.abort()

        for _ in range(count // 5):
            paths = ("events", "output?follow=true") * 5
            await asyncio.gather(*map(cut_one, paths))

    async def assert_flat(self, units: int, work: Callable[[int], Awaitable[None]]) -> None:
        """Do the work in batches, and check that nothing grows with each of them."""
        await self.run_all(4, command="sleep 0.2")  # meanwhile the pool of keepers is filled
        for _ in range(3 if self._whole else 1):  # caches are filled, and the allocator's arenas
            await work(units)
        footprints = [await self._settled(None)]
        for _ in range(8 if self._whole else 2):
            await work(units)
            footprints.append(await self._settled(footprints[-1]))
        print(footprints)
        assert growing(footprints, units, memory=self._whole) == {}

    async def _settled(self, before: Footprint | None) -> Footprint:
        """Return the footprint once no command runs and it has not grown; at the latest after a while."""
        await until(lambda: not self._processes.commands(), what="no command runs")
        now = await self._measure()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                while before is None or growing([before, now], 1, memory=False):
                    await asyncio.sleep(0.05)
                    before, now = before or now, await self._measure()
        return now

    async def _measure(self) -> Footprint:
        server, state_dir = self._service.process.pid, self._service.state_dir
        return await until(lambda: measure(server, self._processes, state_dir), what="a fork server and a keeper")


@pytest.mark.heavy
async def test_jobs_leave_nothing(load: Load, whole: bool) -> None:
    """Jobs that end by themselves."""
    await load.assert_flat(250 if whole else 40, lambda units: load.run_all(units, command="echo $$; exit 3"))


@pytest.mark.heavy
async def test_spilled_output_that_is_deleted_leaves_nothing(service: Service, load: Load, whole: bool) -> None:
    """Jobs with files of their own, which are deleted with them."""

    async def work(units: int) -> None:
        await load.run_all(units, command="head -c 200000 /dev/zero", labels={"leak": "1"})
        status, _, body = await service.ask("DELETE", "/api/jobs?label=leak:1&confirm=true")
        assert (status, body["kept"]) == (200, 0)

    await load.assert_flat(100 if whole else 15, work)


@pytest.mark.heavy
async def test_cut_followers_leave_nothing(service: Service, load: Load, whole: bool) -> None:
    """Followers whose connections break."""
    job = await service.submit("echo x; sleep 600 & wait")
    await service.running(job)
    await load.assert_flat(75 if whole else 15, lambda units: load.cut_followers(job, units))


@pytest.mark.heavy
async def test_orphaning_jobs_leave_nothing(load: Load, whole: bool) -> None:
    """Jobs whose children are orphaned, with sessions of their own."""
    command = "setsid sleep 600 & (setsid sh -c 'sleep 600 & sleep 600' &) ; (exit 1) & sleep 0.01"
    await load.assert_flat(25 if whole else 8, lambda units: load.run_all(units, command=command))


@pytest.mark.heavy
async def test_jobs_that_do_not_start_leave_nothing(load: Load, whole: bool) -> None:
    """Programs and directories that do not exist."""

    async def work(units: int) -> None:
        await load.run_all(units, argv=["/nonexistent"])
        await load.run_all(units, command="true", cwd="/nonexistent")

    await load.assert_flat(40 if whole else 8, work)


@pytest.mark.heavy
async def test_keepers_of_children_that_were_let_go_leave_nothing(load: Load, whole: bool) -> None:
    """Keepers that stay for the children of their jobs, and then are gone."""
    command = "sleep 0.1 >/dev/null 2>&1 & true"
    await load.assert_flat(
        25 if whole else 8, lambda units: load.run_all(units, command=command, leave_children=True)
    )


def test_a_leak_is_seen() -> None:
    """What grows with each batch is reported, what varies or was filled once is not."""
    series = {
        "leak": [5, 6, 8, 9],
        "varies": [5, 9, 4, 7],
        "filled": [0, 7, 7, 7],
        "memory of x": [0, 9999, 20000, 40000],
    }
    footprints = [{name: values[at] for name, values in series.items()} for at in range(4)]
    assert set(growing(footprints, 10, memory=True)) == {"leak"}
    assert set(growing(footprints, 1, memory=True)) == {"leak", "memory of x"}
