"""What a request costs: counts of what is done for it, none of which may grow unnoticed."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import shellrunner
from shellrunner import peer_credentials
from tests.support.attack import read_reply
from tests.support.service import Service
from tests.support.site import Site
from tests.support.system_calls import counted

SOURCE = str(Path(shellrunner.__file__).parent)
REQUESTS = 20  # on one connection
Get = Callable[..., Awaitable[int]]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Get]:
    """Yield a function that sends requests over one connection and returns the statuses of the responses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def get(path: str, *headers: str, verb: str = "GET") -> int:
        host = () if any(header.startswith("Host:") for header in headers) else (f"Host: localhost:{port}",)
        head = "\r\n".join((f"{verb} {path} HTTP/1.1", *host, *headers))
        writer.write(f"{head}\r\n\r\n".encode())
        reply = await read_reply(reader)
        assert reply is not None
        return reply.status

    try:
        yield get
    finally:
        writer.close()


async def test_the_kernel_is_asked_once_for_the_client_of_a_connection(site: Site) -> None:
    """However many requests come over a connection, its client's uid is looked up once."""
    before = peer_credentials._sock_diag._sequence
    async with connected(site.port) as get:
        assert {await get("/api/jobs") for _ in range(REQUESTS)} == {200}
    assert peer_credentials._sock_diag._sequence - before == 1


@contextmanager
def called() -> Iterator[Counter[str]]:
    """Count the calls of our own functions in this thread while the block runs, by their names."""
    counts: Counter[str] = Counter()

    def count(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            counts[frame.f_code.co_name] += 1

    sys.setprofile(count)
    try:
        yield counts
    finally:
        sys.setprofile(None)


async def test_headers_are_checked_once_as_long_as_they_stay_the_same(site: Site) -> None:
    """The checks of a connection's headers are made for its first request, and again once these change."""
    job = await site.submit()
    async with connected(site.port) as get:
        for headers in ((), ("X-One: 1",), ("X-One: 1", "X-Two: 2"), ()):
            with called() as counts:
                assert await get(f"/api/jobs/{job}", *headers) == 200
            assert (counts["check_host"], counts["check_origin"], counts["has_mark"]) == (1, 1, 1)
            with called() as counts:
                assert {await get(f"/api/jobs/{job}", *headers) for _ in range(REQUESTS)} == {200}
            checks = (
                "check_host",
                "check_origin",
                "has_mark",
                "_check_size",
                "_allowed_methods",
                "peer_uid",
                "seconds_left",
            )
            assert {name: counts[name] for name in checks} == dict.fromkeys(checks, 0)
            assert counts["authenticate_uid"] == counts["_is_established"] == REQUESTS


CHANGED = {
    "another origin": ("Origin: http://evil.example", 403),
    "another site": ("Sec-Fetch-Site: cross-site", 403),
    "forwarded": ("X-Forwarded-For: 192.0.2.1", 403),
    "another host": ("Host: evil.example", 421),
    "another type": ("Accept: text/html", 406),
    "too large": (f"X-Large: {'x' * 8000}\r\n" * 5 + "X-Last: 1", 431),
}


@pytest.mark.parametrize("change", CHANGED)
async def test_a_connection_is_not_trusted_for_its_earlier_headers(site: Site, change: str) -> None:
    """A request with other headers than the one before it is checked as the first one was, and the next one too."""
    header, status = CHANGED[change]
    async with connected(site.port) as get:
        for _ in range(2):
            assert await get("/api/jobs") == 200
            assert await get("/api/jobs", header) == status
            assert await get("/api/jobs", header) == status


async def test_the_removal_of_a_service_worker_is_not_skipped(site: Site) -> None:
    """The headers of such a request are not remembered, since its verb counts as well."""
    async with connected(site.port) as get:
        for _ in range(2):
            assert await get("/api/jobs") == 200
            assert await get("/nowhere", "Service-Worker: script", verb="POST") == 404
            assert await get("/nowhere", "Service-Worker: script") == 200


async def test_a_result_in_its_row_is_read_in_one_walk(site: Site) -> None:
    """Output in the history itself is neither surveyed nor read stream by stream, and no file is looked for."""
    job = await site.done(b"out\n", b"err\n")
    async with connected(site.port) as get:
        with called() as counts:
            assert await get(f"/api/results/{job}") == 200
    other_ways = ("survey", "gaps", "read_stream", "_open_first", "_find_runs")
    assert {name: counts[name] for name in other_ways} == dict.fromkeys(other_ways, 0)
    assert counts["read_both"]


@pytest.mark.sqlite(reason="it counts reads of SQLite")
async def test_what_was_made_of_a_job_is_kept_until_it_changes(site: Site) -> None:
    """The second GET of a job, a status or a result reads one row, and makes nothing of it."""
    job = await site.done(b"out\n", b"err\n")
    async with connected(site.port) as get:
        for path, status in ((f"jobs/{job}", 200), (f"statuses/{job}", 303), (f"results/{job}", 200)):
            with called() as counts:
                assert await get(f"/api/{path}") == status
            assert (counts["to_job"], counts["dumps"]) == (not path.startswith("statuses"), 1)
            with called() as counts:
                assert {await get(f"/api/{path}") for _ in range(REQUESTS)} == {status}
            assert (counts["to_job"], counts["dumps"], counts["read_at_once"]) == (0, 0, REQUESTS)


async def test_a_kept_document_is_never_out_of_date(site: Site) -> None:
    """Whatever happens to a job shows in the next response."""
    job = await site.submit()
    runner = site.simulated_runner()

    async def seen() -> list[Any]:
        status = (await site.get(f"/api/statuses/{job}")).json
        results = [await site.get(f"/api/results/{job}") for _ in range(2)]
        states = [(await site.get(f"/api/jobs/{job}")).json["state"] for _ in range(2)]
        return [status["state"], status["cancelling"], *states, *(result.status for result in results)]

    assert await seen() == ["queued", False, "queued", "queued", 404, 404]
    await runner.claim()
    assert await seen() == ["running", False, "running", "running", 404, 404]
    await site.ask("POST", f"/api/jobs/{job}/cancel")
    assert await seen() == ["running", True, "running", "running", 404, 404]
    await runner.finish()
    assert await seen() == ["done", False, "done", "done", 200, 200]
    await site.ask("DELETE", f"/api/results/{job}")
    assert await seen() == ["done", False, "done", "done", 410, 410]
    await site.ask("DELETE", f"/api/jobs/{job}")
    assert {(await site.get(f"/api/{kind}/{job}")).status for kind in ("jobs", "statuses", "results")} == {404}


@pytest.mark.heavy
@pytest.mark.sqlite(reason="it counts SQLite's system calls")
async def test_the_system_calls_of_a_get(service: Service, tmp_path: Path) -> None:
    """One to receive it, one to respond, two locks of SQLite's for each read, one for the client's presence.

    So no other thread has a part in it (futex), and nothing about the client is looked up again.
    """
    job = await service.submit("echo hello")
    await service.result(job)
    async with connected(int(service.url.rpartition(":")[2])) as get:
        for path, status, reads in (
            (f"/api/jobs/{job}", 200, 1),
            (f"/api/statuses/{job}", 303, 1),
            (f"/api/results/{job}", 200, 1),
            (f"/api/statuses/{job}/output", 200, 2),
        ):
            await get(path)
            async with counted(service.process.pid, tmp_path / "calls") as calls:
                assert {await get(path) for _ in range(REQUESTS)} == {status}
            expected = {"recvfrom": 1, "sendto": 1, "fcntl": 2 * reads, "getsockopt": 1, "futex": 0}
            # What it does beside, such as indexing the job, is less than half a call for each; and a read that begins
            # while another connection reads takes no lock of its own.
            assert {name: round(calls[name] / REQUESTS) for name in expected} == expected
