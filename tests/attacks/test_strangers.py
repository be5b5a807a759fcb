"""Clients that nobody has let in hold all connections that they get. A4: those who may come in, do."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import user_client
from tests.support.attack import FULL_TOKEN, Target, bearer, looking, read_reply, request, serving
from tests.support.directories import open_directory
from tests.support.hoarder import hoarding
from tests.support.waiting import until

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can have processes of other users"),
]

STRANGER, GUEST = 54_322, 54_323  # uids that nobody has
NOBODY = 65_534  # also the uid of users that the kernel cannot name
HELD = {
    "nothing is sent": b"",
    "half a head": b"POST /api/jobs HTTP/1.1\r\nHost: localhost:PORT\r\n",
    "answered, and kept open": looking(),
    "a public path": looking("/healthz"),
    "a slow body": request("POST", "/api/jobs", length="Content-Length: 100000", body=b"{"),
    "pipelined": looking("/docs/") * 8,
}


@pytest.fixture(scope="module")
def open_place() -> Iterator[Path]:
    """Yield a directory that every user may enter, unlike those of pytest."""
    with open_directory() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def besieged(open_place: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Yield a service with tokens and few connections, which every user can reach over TCP and a Unix socket."""
    settings = {
        "SERVER__LISTEN": f'["localhost:0", "unix:{open_place}/front"]',
        "SERVER__SOCKET_MODE": "0666",
        "SERVER__MAX_CONNECTIONS": 40,
    }
    async with serving(tmp_path_factory.mktemp("besieged"), tokens=True, **settings) as target:
        yield target


def submission(target: Target, where: tuple[str, int] | str, *headers: str) -> bytes:
    """Return the request that submits a job over this listener."""
    host = "Host: localhost" if isinstance(where, str) else "Host: localhost:PORT"
    return target.filled(request("POST", "/api/jobs", *headers, host=host, body=b'{"command":"true"}'))


async def submit(target: Target, where: tuple[str, int] | str, *headers: str) -> int:
    """Submit a job over a connection of its own, as the service's user; return the status."""
    connecting = asyncio.open_unix_connection(where) if isinstance(where, str) else asyncio.open_connection(*where)
    async with asyncio.timeout(5):
        reader, writer = await connecting
        try:
            writer.write(submission(target, where, *headers))
            reply = await read_reply(reader)
            return reply.status if reply else 0
        finally:
            writer.close()


async def figures(target: Target) -> dict[str, float]:
    """Return the metrics of connections."""
    _, _, text = await target.service.ask("GET", "/metrics", headers=dict([bearer(FULL_TOKEN).split(": ")]))
    lines = [line.rpartition(" ") for line in text.decode().splitlines() if line.startswith("shellrunner_")]
    return {name.removeprefix("shellrunner_"): float(value) for name, _, value in lines if "connections" in name}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", HELD)
async def test_a4_strangers_cannot_lock_others_out(besieged: Target, open_place: Path, kind: str) -> None:
    """A4: while another user holds all connections that it gets, over TCP and the Unix socket, others come in."""
    tcp, unix = ("127.0.0.1", besieged.port), f"{open_place}/front"
    token = bearer(FULL_TOKEN)
    sent = besieged.filled(HELD[kind])
    async with hoarding(STRANGER, tcp, 60, sent), hoarding(STRANGER, unix, 60, sent):
        for _ in range(3):
            assert await submit(besieged, tcp, token) == 202
            assert await submit(besieged, unix) == 202
        where: tuple[str, int] | str
        for family, where in ((socket.AF_INET, tcp), (socket.AF_UNIX, unix)):
            guest = submission(besieged, where, token, "Connection: close")
            assert " 202 " in await user_client.send(GUEST, family, where, guest)
        now = await figures(besieged)
        assert now["unauthenticated_connections"] <= 10
    assert now['connections_cut_total{reason="unauthenticated"}'] > 0
    assert now['connections_cut_total{reason="one-too-many"}'] == 0


@pytest.mark.heavy
async def test_a4_the_log_says_who_holds_the_connections(besieged: Target, open_place: Path) -> None:
    """A4: a line a minute has the number that was dropped, and the users that most of them belonged to."""
    async with hoarding(STRANGER, f"{open_place}/front", 60):
        (line, *more) = await until(
            lambda: [each for each in besieged.service.log if each["event"] == "connections dropped"]
        )
    assert not more
    assert line["level"] == "warning"
    assert line["unauthenticated"] > 0
    assert f"uid:{STRANGER}" in line["sources"]


async def test_a4_what_was_let_in_stays(besieged: Target) -> None:
    """A4: connections on which a request was authenticated are not closed for strangers, however long they wait."""
    async with AsyncExitStack() as stack:
        kept = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", besieged.port)
            stack.callback(writer.close)
            kept.append((reader, writer))
        ask = besieged.filled(looking("/api/queues", bearer(FULL_TOKEN)))
        for _ in range(2):
            for reader, writer in kept:
                writer.write(ask)
                reply = await read_reply(reader)
                assert reply is not None
                assert reply.status == 200
            await stack.enter_async_context(hoarding(NOBODY, ("127.0.0.1", besieged.port), 60))
