"""What a request costs: counts of what is done for it, none of which may grow unnoticed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from shellrunner import peer_credentials
from tests.support.attack import read_reply
from tests.support.service import Service
from tests.support.site import Site
from tests.support.system_calls import counted

REQUESTS = 20  # on one connection
Get = Callable[..., Awaitable[int]]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Get]:
    """Yield a function that sends a GET over one connection and returns the status of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def get(path: str, *headers: str) -> int:
        head = "\r\n".join((f"GET {path} HTTP/1.1", f"Host: localhost:{port}", "Accept: */*", *headers))
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
            (f"/api/results/{job}", 200, 2),
        ):
            await get(path)
            async with counted(service.process.pid, tmp_path / "calls") as calls:
                assert {await get(path) for _ in range(REQUESTS)} == {status}
            expected = {"recvfrom": 1, "sendto": 1, "fcntl": 2 * reads, "getsockopt": 1, "futex": 0}
            # What it does beside, such as indexing the job, is less than one call for each.
            assert {name: calls[name] // REQUESTS for name in expected} == expected
