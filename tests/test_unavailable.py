"""What a service answers while it waits for its history: 503 to every request, until the app takes over."""

import asyncio
import contextlib
import io
import json
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shellrunner.config import Address
from shellrunner.service.network import unavailable_responder
from shellrunner.service.network.binding import Listeners, bound_listeners
from shellrunner.service.network.tls import Certificate
from shellrunner.service.network.unavailable_responder import unavailable
from tests.support.waiting import until


@pytest.fixture
def listeners(tmp_path: Path) -> Any:
    """Yield a TCP address and a Unix socket's."""
    addresses = [Address("127.0.0.1", 0), Address(path=str(tmp_path / "socket"))]
    with bound_listeners(addresses) as found:
        yield found


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Make a certificate; return the file with it and its key."""
    path = tmp_path / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2"
    subprocess.run([*command.split(), "-keyout", path, "-out", path], check=True, capture_output=True)
    path.chmod(0o600)
    return path


def port_of(listeners: Listeners) -> int:
    """Return the port of the first address."""
    (first, *_) = listeners.endpoints
    assert isinstance(first, socket.socket)
    return int(first.getsockname()[1])


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """Return what is sent until the connection ends, or nothing if that is by a reset."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


@contextlib.asynccontextmanager
async def asking(listeners: Listeners, *, unix: bool) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Yield a client, and the address."""
    (endpoint,) = (each for each in listeners.endpoints if isinstance(each, Address))
    connector = aiohttp.UnixConnector(endpoint.path) if unix else aiohttp.TCPConnector()
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session, "http://localhost" if unix else f"http://127.0.0.1:{port_of(listeners)}"


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_every_request_is_503_but_the_probe_of_the_process(listeners: Listeners, unix: bool) -> None:
    """/readyz has the reason as the app has it, /healthz is 200, and a large body is no reason for a reset."""
    async with unavailable(listeners, 0o600, None), asking(listeners, unix=unix) as (session, url):
        async with session.get(f"{url}/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok\n")
        async with session.get(f"{url}/readyz?x=1") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            document = await response.json(content_type="application/problem+json")
            assert (document["type"], document["reasons"]) == ("/problems/not-ready", ["store-unavailable"])
        for path in ("/", "/api/jobs", "/healthz/x"):
            async with session.post(url + path, data=io.BytesIO(bytes(2_000_000))) as response:
                assert (response.status, response.headers["Connection"]) == (503, "close")
                document = await response.json(content_type="application/problem+json")
                assert (document["type"], document["status"]) == ("/problems/store-unavailable", 503)


@pytest.mark.parametrize("text", [b"", b"\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET /healthz", b"x" * 9000])
async def test_what_is_no_request_is_answered_or_closed(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    """No client holds a connection for long, whatever it sends."""
    monkeypatch.setattr(unavailable_responder, "_TIMEOUT", 0.2)
    async with unavailable(listeners, 0o600, None):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listeners))
        writer.write(text)
        answer = await all_of(reader)
        assert answer.startswith(b"HTTP/1.1 503 ") == (b"\r\n\r\n" in text or len(text) > 8192)
        writer.close()


async def test_there_are_never_more_connections_than_so_many(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is closed at once; when the others have gone, the next is answered."""
    monkeypatch.setattr(unavailable_responder, "_MAX_CONNECTIONS", 2)
    port = port_of(listeners)
    async with unavailable(listeners, 0o600, None):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        more, closing = await asyncio.open_connection("127.0.0.1", port)
        assert await all_of(more) == b""
        closing.close()
        for _, writer in idle:
            writer.close()

        async def answered() -> bool:
            async with asking(listeners, unix=False) as (session, url):
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{url}/healthz") as response:
                        return response.status == 200
            return False

        await until(answered, what="a place is free")


async def test_tls_is_spoken_where_the_service_speaks_it(listeners: Listeners, certificate: Path) -> None:
    """The answer comes with the service's certificate, but not over the Unix socket, which has none."""
    served = Certificate(certificate, certificate)
    trusted = ssl.create_default_context(cafile=str(certificate))
    trusted.check_hostname = False
    async with unavailable(listeners, 0o600, served), aiohttp.ClientSession() as session:
        async with session.get(f"https://127.0.0.1:{port_of(listeners)}/readyz", ssl=trusted) as response:
            assert response.status == 503
        async with asking(listeners, unix=True) as (unix, url), unix.get(f"{url}/readyz") as response:
            assert response.status == 503


async def test_afterwards_connections_wait_for_the_app(listeners: Listeners) -> None:
    """The address stays bound and listens; what has connected meanwhile is accepted by the next server."""
    port = port_of(listeners)
    async with unavailable(listeners, 0o600, None):
        left, unanswered = await asyncio.open_connection("127.0.0.1", port)
    assert await all_of(left) == b""
    unanswered.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")

    async def accept(request: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        await request.readuntil(b"\r\n\r\n")
        answer.write(json.dumps("the app").encode())
        answer.close()

    (listener, *_) = listeners.endpoints
    assert isinstance(listener, socket.socket)
    async with await asyncio.start_server(accept, sock=listener.dup()):
        assert await reader.read() == b'"the app"'
    writer.close()
    path = next(each.path for each in listeners.endpoints if isinstance(each, Address))
    assert not Path(path).exists()
