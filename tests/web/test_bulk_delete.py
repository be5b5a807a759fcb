"""Bulk delete by a list's filters: what is deleted, what is kept, and the confirmation."""

import asyncio
import logging

import pytest

from shellrunner.clock import now_ms
from shellrunner.model import End, Ending, JobSpec
from tests.support.site import Site
from tests.support.waiting import until


async def left(site: Site) -> list[int]:
    return [job["job_id"] for job in (await site.get("/api/jobs?limit=1000")).json["jobs"]]


async def cancelled(site: Site, number: int) -> None:
    jobs = await asyncio.gather(*(site.store.add(JobSpec(command="true")) for _ in range(number)))
    await asyncio.gather(*(site.store.request_cancel(job.id) for job in jobs))


async def test_all_that_is_done(site: Site) -> None:
    """Without filters every done job is deleted with its status and result; other jobs are kept and counted."""
    done = await site.done(b"x")
    running = await site.submit()
    await site.simulated_runner().claim()
    queued = await site.submit()
    waiting = await site.submit(after=[queued])
    answer = await site.ask("DELETE", "/api/jobs?confirm=true")
    assert (answer.status, answer.json) == (200, {"deleted": 1, "kept": 3})
    assert answer.headers["Cache-Control"] == "no-store"
    assert await left(site) == [waiting, queued, running]
    for path in ("jobs", "statuses", "results"):
        assert (await site.get(f"/api/{path}/{done}")).status == 404
    assert (await site.ask("DELETE", "/api/jobs?confirm=true")).json == {"deleted": 0, "kept": 3}


@pytest.mark.parametrize("query", ["", "confirm=false", "q=t&confirm=false"])
async def test_unconfirmed(site: Site, query: str) -> None:
    """Without `confirm=true` the response is 400 with the number of jobs, and nothing is deleted."""
    await site.done()
    await site.done()
    await site.submit()
    answer = await site.ask("DELETE", f"/api/jobs?{query}")
    assert (answer.status, answer.json["type"]) == (400, "/problems/unconfirmed")
    assert (answer.json["deleted"], answer.json["kept"], answer.json["parameter"]) == (2, 1, "confirm")
    assert await left(site) == [3, 2, 1]


@pytest.mark.parametrize(
    ("query", "gone"),
    [
        ("q=ПРИВЕТ", {1}),
        ("exit_code=3", {2}),
        ("ending=exited", {1, 2}),
        ("ending=cancelled", {3}),
        ("state=done", {1, 2, 3}),
        ("state=queued", set()),
        ("label=team:red", {2}),
        ("label=team:red&label=env:x", set()),
        ("min_duration=1", {2}),
        ("created_before=2001-01-01T00:00:00Z", set()),
        ("completed_after=2001-01-01T00:00:00Z&exit_code=0", {1}),
    ],
)
async def test_filters(site: Site, query: str, gone: set[int]) -> None:
    """Exactly the done jobs that the list has for the same query are deleted, as many as the 400 before announced."""
    await site.done(command="echo привет")
    await site.done(
        end=End(Ending.EXITED, now_ms(), 3, started=now_ms(), duration=1.5), labels={"team": "red"}, command="exit 3"
    )
    await cancelled(site, 1)
    await site.submit()
    meant = {job["job_id"] for job in (await site.get(f"/api/jobs?{query}")).json["jobs"]}
    assert meant - {4} == gone
    expected = {"deleted": len(gone), "kept": len(meant & {4})}
    response = (await site.ask("DELETE", f"/api/jobs?{query}")).json
    assert {name: response[name] for name in expected} == expected
    answer = await site.ask("DELETE", f"/api/jobs?{query}&confirm=true")
    assert (answer.status, answer.json) == (200, expected)
    assert set(await left(site)) == {1, 2, 3, 4} - gone


async def test_bad_parameters(site: Site) -> None:
    """A parameter of pages, or an unknown one, is 400 that names it, and nothing is deleted."""
    await site.done()
    for query in (
        *("sort=created", "fields=job_id", "limit=1", "cursor=x", "nonsense=1"),
        *("state=finished", "exit_code=x", "confirm=yes", "confirm=", "confirm=true&confirm=true"),
    ):
        more = "" if "confirm" in query else "&confirm=true"
        answer = await site.ask("DELETE", f"/api/jobs?{query}{more}")
        assert (answer.status, answer.json["parameter"]) == (400, query.partition("=")[0]), query
    assert await left(site) == [1]


async def test_if_match(site: Site) -> None:
    """If-Match with a version is 412, for a list has none; `*` matches, and with If-None-Match it does not."""
    await site.done()
    for name, value, status in (("If-Match", '"x"', 412), ("If-None-Match", "*", 412), ("If-Match", "*", 200)):
        answer = await site.ask("DELETE", "/api/jobs?confirm=true", headers={name: value})
        assert answer.status == status


@pytest.mark.heavy
async def test_it_goes_on_when_the_client_goes(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The deletion continues after its client disconnected, and is logged."""
    await cancelled(site, 350)
    delete_jobs, begun = site.store.delete_jobs, asyncio.Event()

    async def noticed(*args: object) -> object:
        begun.set()
        return await delete_jobs(*args)  # type: ignore[arg-type]

    site.store.delete_jobs = noticed  # type: ignore[method-assign,assignment]
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    with caplog.at_level(logging.INFO, "shellrunner.web"):
        writer.write(f"DELETE /api/jobs?confirm=true HTTP/1.1\r\nHost: localhost:{site.port}\r\n\r\n".encode())
        await asyncio.wait_for(begun.wait(), 5)
        writer.transport.abort()
        await until(lambda: bool(caplog.records))
    assert (caplog.records[0].deleted, caplog.records[0].kept) == (350, 0)  # type: ignore[attr-defined]
    assert await left(site) == []


async def test_what_comes_meanwhile_is_kept(site: Site) -> None:
    """The deletion ends although jobs keep being accepted and finished meanwhile."""
    await cancelled(site, 250)
    stop = asyncio.Event()

    async def more() -> None:
        while not stop.is_set():
            await cancelled(site, 1)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(more())
        answer = await site.ask("DELETE", "/api/jobs?confirm=true")
        stop.set()
    assert answer.json["kept"] <= 1  # one that was accepted, and not cancelled yet, when the deletion began
    assert min(await left(site), default=251) > 250
