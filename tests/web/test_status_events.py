"""The stream of all statuses: live, resumed, reset; no change is missing or out of order."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shellrunner.model import Job, JobSpec
from shellrunner.web.feeds.shared_read import INTERVAL
from shellrunner.web.feeds.status_feed import STATUS_FEED
from shellrunner.web.http.connections import CONNECTIONS, ConnectionLimits
from shellrunner.web.http.streaming import STREAMS
from tests.support.site import Site, serving
from tests.support.sse import Event, parse
from tests.support.waiting import until

ORDER = {"waiting": 0, "queued": 1, "running": 2, "done": 3}
PATH = "/api/statuses/events"


@asynccontextmanager
async def changes(
    site: Site, query: str = "", **headers: str
) -> AsyncIterator[tuple[aiohttp.ClientResponse, AsyncIterator[Event]]]:
    """Follow all statuses."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with site.session.get(f"http://127.0.0.1:{site.port}{PATH}{query}", headers=names) as response:
        assert response.status == 200, await response.read()
        yield response, parse(response.content)


class Mirror:
    """What a reader of the stream knows about all jobs."""

    def __init__(self) -> None:
        self.states: dict[int, Any] = {}
        self.last = ""
        self.resets = 0

    def take(self, event: Event) -> None:
        """Apply an event; no job returns to an earlier state, and no deleted job reappears."""
        assert event.id is not None
        era, _, number = event.id.partition("-")
        old_era, _, old = self.last.partition("-")
        assert era != old_era or int(number) >= int(old), "ids count up"
        self.last = event.id
        if event.name == "reset":
            assert event.data == {}
            self.resets += 1
            return
        job_id = event.data["status_id"]
        known = self.states.get(job_id)
        if event.name == "deleted":
            assert event.data == {"status_id": job_id}
            self.states[job_id] = "deleted"
            return
        assert event.name == "status"
        assert known != "deleted"
        assert known is None or ORDER[known["state"]] <= ORDER[event.data["state"]]
        self.states[job_id] = event.data

    def knows_all_of(self, statuses: list[dict[str, Any]]) -> bool:
        """Return whether these are the statuses that a list has; a list has no deleted jobs."""
        return {status["status_id"]: status for status in statuses} == {
            job_id: status for job_id, status in self.states.items() if status != "deleted"
        }


async def listed(site: Site) -> list[dict[str, Any]]:
    """Read every status, page by page."""
    found: list[dict[str, Any]] = []
    link = "/api/statuses?limit=1000"
    while link:
        answer = (await site.get(link)).json
        found += answer["statuses"]
        link = answer["next"]
    return found


async def followed(site: Site, step: Awaitable[object], job_id: int | None = None) -> None:
    """Take a step of the worker with a job; return once the app's node, which may be another one, has followed it."""
    before = site.store.changes.head
    done = await step
    wanted = done.id if isinstance(done, Job) else job_id
    await until(lambda: any(changed == wanted for _, changed in site.store.changes.since(before, 1000) or ()))


class Life:
    """Jobs that are added, run, ended, cancelled and deleted at random."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site, self._chance = site, random.Random(seed)
        self._done: list[int] = []

    async def live(self, jobs: int) -> None:
        """Run this number of jobs."""
        runner = self._site.simulated_runner()
        for _ in range(jobs):
            job = await self._site.store.add(JobSpec(command="true"))
            if self._chance.random() < 0.2:
                await self._site.store.request_cancel(job.id)
                self._done.append(job.id)
            else:
                self._done.append((await runner.claim()).job_id)
                await runner.finish()
            if self._chance.random() < 0.3:
                gone = self._done.pop(self._chance.randrange(len(self._done)))
                await self._site.store.delete_job(gone)
        if self._site.worker_store is not self._site.store:  # its notes come in their order: the last one is this
            await followed(self._site, self._site.worker_store.add(JobSpec(command="true")))


async def test_live(site: Site) -> None:
    """Every change is sent as it happens: accepted, started, cancelling, done, result deleted, job deleted."""
    async with asyncio.timeout(10), changes(site) as (_, events):
        job_id = await site.submit()
        event = await anext(events)
        assert (event.name, event.data) == ("status", (await site.get(f"/api/statuses/{job_id}")).json)
        runner = site.simulated_runner()
        await runner.claim()
        assert (await anext(events)).data["state"] == "running"
        await site.ask("POST", f"/api/jobs/{job_id}/cancel")
        assert (await anext(events)).data["cancelling"] is True
        await runner.finish()
        assert (await anext(events)).data["result"] == f"/api/results/{job_id}"
        await site.ask("DELETE", f"/api/results/{job_id}")
        event = await anext(events)
        assert (event.data["done"], event.data["result"]) == (True, None)
        await site.ask("DELETE", f"/api/jobs/{job_id}")
        event = await anext(events)
        assert (event.name, event.data) == ("deleted", {"status_id": job_id})


async def test_head_of_the_stream(site: Site) -> None:
    """The stream must not be stored, and begins with `retry: 2000` and an id; HEAD has its headers only."""
    await site.submit()
    async with changes(site) as (response, _):
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert await response.content.readline() == b"retry: 2000\n"
        assert await response.content.readline() == f"id: {site.store.changes.epoch}-1\n".encode()
        assert await response.content.readline() == b"\n"
    head = await site.ask("HEAD", PATH)
    assert (head.status, head.body, head.headers["Content-Type"]) == (200, b"", "text/event-stream")


async def test_heartbeat(site: Site) -> None:
    """A silent stream sends heartbeats, which are not events."""
    site.app[STREAMS].heartbeat = 0.05
    got = await site.raw(f"GET {PATH} HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", until=b"\r\n3\r\n:\n\n\r\n")
    assert got.endswith(b"\r\n3\r\n:\n\n\r\n")


@pytest.mark.heavy
async def test_connect_then_list_misses_nothing(site: Site) -> None:
    """A reader that connects, then reads the list, then applies the events, knows every job as it is."""
    life = Life(site, 1)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        living = tasks.create_task(life.live(100))
        readers = []
        for _ in range(6):
            readers.append(tasks.create_task(_mirrored(site, living)))
            await asyncio.sleep(0.02)  # they come at different moments of the jobs' lives
    for mirror in (reader.result() for reader in readers):
        assert mirror.resets == 0
        assert mirror.knows_all_of(await listed(site))


async def _mirrored(site: Site, living: "asyncio.Task[None]") -> Mirror:
    mirror = Mirror()
    async with changes(site) as (_, events):
        for status in await listed(site):
            mirror.states[status["status_id"]] = status
        known = dict(mirror.states)
        mirror.states.clear()
        while not (living.done() and mirror.last.endswith(f"-{site.store.changes.head}")):
            mirror.take(await anext(events))
    mirror.states = known | mirror.states
    return mirror


@pytest.mark.heavy
async def test_cut_at_random(site: Site) -> None:
    """A reader that is disconnected at random and resumes knows the last state of every job."""
    chance, mirror, life = random.Random(3), Mirror(), Life(site, 2)
    last = f"{site.store.changes.epoch}-0"
    cuts = 0
    async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
        living = tasks.create_task(life.live(100))
        while not (living.done() and last.endswith(f"-{site.store.changes.head}")):
            query, headers = (
                (f"?last_event_id={last}", {}) if chance.random() < 0.5 else ("", {"Last_Event_ID": last})
            )
            async with changes(site, query, **headers) as (_, events):
                for _ in range(chance.choice([0, 1, 1, 2, 5, 20])):
                    if last.endswith(f"-{site.store.changes.head}"):
                        break
                    mirror.take(await anext(events))
                    last = mirror.last
            cuts += 1
    assert mirror.resets == 0
    assert mirror.knows_all_of(await listed(site))


async def test_each_once_as_it_is_now(site: Site) -> None:
    """A reader that resumes after many changes of a job gets it once, in the order of the latest changes."""
    async with changes(site) as (_, events):
        await site.submit()
        place = (await anext(events)).id
    first, runner = 1, site.simulated_runner()
    await followed(site, runner.claim(), first)
    second = await site.submit()
    await followed(site, runner.finish(), first)
    await followed(site, runner.claim(), second)
    third = await site.submit()
    await followed(site, runner.finish(), second)
    await site.store.request_cancel(third)
    await site.store.delete_job(first)
    async with asyncio.timeout(5), changes(site, Last_Event_ID=str(place)) as (_, events):
        received = [await anext(events) for _ in range(3)]
        last = await site.submit()
        received.append(await anext(events))
    assert [(event.name, event.data["status_id"]) for event in received[:3]] == [
        ("status", second),
        ("status", third),
        ("deleted", first),
    ]
    assert received[3].data["status_id"] == last


async def test_nothing_new(site: Site) -> None:
    """A reader that missed nothing gets nothing until something changes."""
    await site.submit()
    place = f"{site.store.changes.epoch}-{site.store.changes.head}"
    async with asyncio.timeout(5), changes(site, Last_Event_ID=place) as (_, events):
        job_id = await site.submit()
        event = await anext(events)
        assert (event.name, event.data["status_id"]) == ("status", job_id)


@pytest.mark.heavy
async def test_unknown_id(site: Site) -> None:
    """E2: an id that this server never sent is answered with `reset` and the current id, then the stream is live."""
    await site.submit()
    era = site.store.changes.epoch
    unknown = ("x", "1", "-1", era, f"{era}-", f"{era}--1", f"{era}-99", f"{era}-1x", "0-1", "end")
    for query, headers in (
        *((f"?last_event_id={event_id}", {}) for event_id in unknown),
        *(("", {"Last_Event_ID": event_id}) for event_id in unknown),
    ):
        async with asyncio.timeout(5), changes(site, query, **headers) as (response, events):
            assert await response.content.readline() == b"retry: 2000\n"
            reset = await anext(events)
            assert (reset.name, reset.data) == ("reset", {})
            assert reset.id == f"{site.store.changes.epoch}-{site.store.changes.head}"
            job_id = await site.submit()
            assert (await anext(events)).data["status_id"] == job_id


async def test_header_wins(site: Site) -> None:
    """The header Last-Event-ID takes precedence over the parameter, and an empty one is ignored."""
    await site.submit()
    zero = f"{site.store.changes.epoch}-0"
    async with asyncio.timeout(5), changes(site, "?last_event_id=x", Last_Event_ID=zero) as (_, events):
        assert (await anext(events)).data["status_id"] == 1
    assert (await site.get(f"{PATH}?since={zero}")).status == 400


async def test_too_old(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader beyond the remembered changes, when it connects or because it is slow, gets `reset`."""
    monkeypatch.setattr(site.store.changes, "_max_jobs", 5)
    zero = f"{site.store.changes.epoch}-0"
    for _ in range(6):
        await site.submit()
    async with asyncio.timeout(5), changes(site, Last_Event_ID=zero) as (_, events):
        reset = await anext(events)
        assert (reset.name, reset.id) == ("reset", f"{site.store.changes.epoch}-6")
        await site.store.add_many([JobSpec(command="true")] * 6)  # at once: more than is remembered, to any reader
        reset = await anext(events)
        assert (reset.name, reset.id) == ("reset", f"{site.store.changes.epoch}-12")
        job_id = await site.submit()
        assert (await anext(events)).data["status_id"] == job_id


async def test_restart(tmp_path: Path) -> None:
    """An id from before a restart is answered with `reset`, because changes are not remembered across restarts."""
    async with serving(tmp_path) as site, changes(site) as (_, events):
        await site.submit()
        place = str((await anext(events)).id)
    async with serving(tmp_path) as site, asyncio.timeout(5), changes(site, Last_Event_ID=place) as (_, events):
        assert (await anext(events)).name == "reset"


@pytest.mark.heavy
async def test_bulk_delete(site: Site) -> None:
    """A bulk delete sends `deleted` once for each of its jobs, and for no other."""
    jobs = await asyncio.gather(*(site.store.add(JobSpec(command="true")) for _ in range(300)))
    await asyncio.gather(*(site.store.request_cancel(job.id) for job in jobs))
    kept = await site.submit()
    async with asyncio.timeout(10), changes(site) as (_, events):
        answer = await site.ask("DELETE", "/api/jobs?confirm=true")
        assert answer.json == {"deleted": 300, "kept": 1}
        received = [await anext(events) for _ in range(300)]
        assert {event.name for event in received} == {"deleted"}
        assert {event.data["status_id"] for event in received} == set(range(1, kept))


@pytest.mark.heavy
@pytest.mark.sqlite(reason="it counts changes; a node gathers those of other nodes")
async def test_read_once_for_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """All followers get the same, and changed jobs are read once per interval, not once for each follower."""
    some, reads = site.store.jobs, 0

    async def counted(job_ids: Any) -> Any:
        nonlocal reads
        reads += 1
        return await some(job_ids)

    monkeypatch.setattr(site.store, "jobs", counted)
    begun = asyncio.Barrier(26)

    async def follow() -> Mirror:
        mirror = Mirror()
        async with changes(site) as (_, events):
            await begun.wait()
            while not mirror.last.endswith("-180"):
                mirror.take(await anext(events))
        return mirror

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow()) for _ in range(25)]
        await begun.wait()
        started = asyncio.get_running_loop().time()
        runner = site.simulated_runner()
        for _ in range(60):
            await site.store.add(JobSpec(command="true"))
            await runner.claim()
            await runner.finish()
    ticks = (asyncio.get_running_loop().time() - started) / INTERVAL
    for mirror in (follower.result() for follower in followers):
        assert {status["state"] for status in mirror.states.values()} == {"done"}
        assert len(mirror.states) == 60
    # Slow followers are at several positions, each of which is a read; one for each follower would be 25 times that.
    assert reads <= 4 * (ticks + 5)


@pytest.mark.heavy
async def test_slow_reader(site: Site) -> None:
    """E7: a follower that reads nothing costs little memory, delays no other follower, and is disconnected."""
    site.app[CONNECTIONS].limits = ConnectionLimits(send_timeout=1.0)
    site.app[STATUS_FEED].shared_read.interval = 0.001
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: localhost:{site.port}\r\n\r\n".encode())
    await reader.readline()
    (connection,) = site.connections
    assert connection.transport is not None
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    stop, most, mirror = asyncio.Event(), 0, Mirror()

    async def live() -> None:
        nonlocal most
        while not stop.is_set():
            job = await site.store.add(JobSpec(command="true"))
            await site.store.request_cancel(job.id)
            if connection.transport is not None:
                most = max(most, connection.transport.get_write_buffer_size())

    async with asyncio.timeout(20), changes(site) as (_, events), asyncio.TaskGroup() as tasks:
        living = tasks.create_task(live())
        while connection.transport is not None:
            mirror.take(await anext(events))
        stop.set()
        await living
    writer.close()
    assert mirror.resets == 0
    assert 0 < most < 100_000


async def test_gone_client_and_shutdown(tmp_path: Path) -> None:
    """A disconnected follower is freed by the next heartbeat; at shutdown the stream ends at once and properly."""
    async with serving(tmp_path) as site:
        site.app[STREAMS].heartbeat = 0.05
        async with changes(site):
            pass
        await until(lambda: not site.connections)
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            stream = tasks.create_task(site.raw(f"GET {PATH} HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n"))
            await until(lambda: len(site.app[STREAMS]._timeouts) == 1)
            site.app[STREAMS].close()
            assert (await site.get(PATH)).status == 503
            await site.runner.cleanup()
        assert stream.result().endswith(b"\r\n0\r\n\r\n")
