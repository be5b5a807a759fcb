"""Clients that close their sending side behind their requests (`nc -N`) are answered, and the gone are freed."""

import asyncio
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shellrunner.access import Identity
from shellrunner.service.network.tls_protocol import over_tls
from shellrunner.web.app_keys import AUTHENTICATOR
from shellrunner.web.http.connections import CONNECTIONS, ConnectionLimits
from shellrunner.web.http.streaming import STREAMS
from tests.support.site import Site, serving
from tests.support.waiting import until

JOB = b'{"command": "true"}'
TRANSPORTS = ["tcp", "unix", "tls", "tls-fin", "tls-notify-fin"]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Yield a service with a token's identity for all: without one, a half-closed TCP connection has no owner."""
    async with serving(tmp_path) as running:
        let_in(running)
        await web.UnixSite(running.runner, str(tmp_path / "s")).start()
        yield running


def let_in(site: Site) -> None:
    """Take every client for one that may do all."""
    identity = Identity("token:ci", frozenset({"read", "run"}))
    site.app[AUTHENTICATOR].authenticate_uid = lambda _, **_more: identity  # type: ignore[method-assign]
    site.app[AUTHENTICATOR].is_still_valid = lambda _: True  # type: ignore[assignment,method-assign]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2"
    subprocess.run([*command.split(), "-keyout", path, "-out", path], check=True, capture_output=True)
    return path


Connect = Callable[[str], Any]


class Client:
    """A client that can close its sending side, with close_notify or with the end of the TCP connection, or both."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, port: int) -> None:
        self.reader, self.writer, self._way, self._port = reader, writer, way, port
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._tls = context.wrap_bio(self._incoming, self._outgoing) if way.startswith("tls") else None

    async def begin(self) -> None:
        """Make the handshake, if there is one."""
        while self._tls:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self.reader.read(1 << 16))
            else:
                break

    async def _flush(self) -> None:
        self.writer.write(self._outgoing.read())
        await self.writer.drain()

    async def send(self, data: bytes) -> None:
        """Send it, with the port in place of PORT, or without one."""
        data = data.replace(b":PORT", b"" if self._way == "unix" else b":%d" % self._port)
        if self._tls:
            self._tls.write(data)
            return await self._flush()
        self.writer.write(data)
        return await self.writer.drain()

    async def half_close(self) -> None:
        """Close the sending side."""
        if self._tls and self._way != "tls-fin":
            with pytest.raises(ssl.SSLWantReadError):
                self._tls.unwrap()
            await self._flush()
        if self._way != "tls":
            await self._flush()
            self.writer.write_eof()

    async def read(self) -> bytes:
        """Return the next bytes that arrive; empty at the end, which TLS must have announced by its close_notify."""
        while True:
            if self._tls:
                try:
                    return self._tls.read(1 << 16)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return b""
            received = await self.reader.read(1 << 16)
            if not self._tls:
                return received
            assert received, "the end without a close_notify"
            self._incoming.write(received)

    async def rest(self) -> bytes:
        """Return everything until the end."""
        pieces = []
        async with asyncio.timeout(20):
            while piece := await self.read():
                pieces.append(piece)
        return b"".join(pieces)

    async def answer(self, request: bytes) -> bytes:
        """Send it, close the sending side, and return everything until the end."""
        await self.send(request)
        await self.half_close()
        return await self.rest()


@pytest.fixture
async def connect(site: Site, certificate: Path) -> AsyncIterator[Connect]:
    """Yield a function that connects in some way, as an async context manager."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server: Any = site.runner.server
    listener = await asyncio.get_running_loop().create_server(over_tls(server, context), sock=site.tls_socket)

    @asynccontextmanager
    async def connected(way: str) -> AsyncIterator[Client]:
        port = listener.sockets[0].getsockname()[1] if way.startswith("tls") else site.port
        if way == "unix":
            reader, writer = await asyncio.open_unix_connection(str(site.state_dir / "s"))
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = Client(reader, writer, way, port)
        try:
            await client.begin()
            yield client
        finally:
            writer.transport.abort()

    yield connected
    listener.close()


def request(line: str, *headers: str, body: bytes | None = None) -> bytes:
    """Return a request of HTTP/1.1, unless the line says otherwise."""
    line = line if " HTTP/" in line else f"{line} HTTP/1.1"
    more = [] if body is None else ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([line, "Host: localhost:PORT", *more, *headers, "", ""]).encode() + (body or b"")


def statuses(answer: bytes) -> list[int]:
    """Return the status of every response in an answer."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


CHUNKED = request("POST /api/jobs", "Content-Type: application/json", "Transfer-Encoding: chunked")
REQUESTS = {
    "keep-alive": (request("POST /api/jobs", body=JOB), [202]),
    "close": (request("POST /api/jobs", "Connection: close", body=JOB), [202]),
    "http10": (request("POST /api/jobs HTTP/1.0", body=JOB), [202]),
    "http10-keep-alive": (request("POST /api/jobs HTTP/1.0", "Connection: keep-alive", body=JOB), [202]),
    "chunked": (CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(JOB), JOB), [202]),
    "pipelined": (request("POST /api/jobs", body=JOB) * 3 + request("GET /api/jobs/2"), [202, 202, 202, 200]),
    "many": (request("GET /healthz") * 40, [200] * 40),
    "problem": (request("POST /api/jobs", body=b"{}"), [422]),
    "expect": (request("POST /api/jobs", "Expect: 100-continue", body=JOB), [100, 202]),
    "upgrade": (
        request("GET /healthz", "Connection: Upgrade", "Upgrade: websocket") + request("GET /healthz"),
        [200, 200],
    ),
    "head": (request("HEAD /api/jobs"), [200]),
}


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_n1_a_half_closed_client_gets_its_answers(site: Site, connect: Connect, way: str) -> None:
    """N1: every request that was sent whole is answered, in order, and then the connection is closed."""
    for name, (sent, expected) in REQUESTS.items():
        async with connect(way) as client:
            assert statuses(await client.answer(sent)) == expected, name
        await until(lambda: not len(site.app[CONNECTIONS]), what=f"{name}: the connection is closed")


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_n1_the_body_may_come_with_the_end(site: Site, connect: Connect, way: str) -> None:
    """N1: a request whose parts arrive one after the other is answered all the same."""
    sent = request("POST /api/jobs", body=JOB)
    async with connect(way) as client:
        for piece in (sent[:20], sent[20:-7]):
            await client.send(piece)
            await asyncio.sleep(0.02)
        assert statuses(await client.answer(sent[-7:])) == [202]


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_n1_a_large_answer_is_whole(site: Site, connect: Connect, way: str) -> None:
    """N1: an answer much larger than every buffer comes whole, to a client that reads late."""
    output = bytes(range(256)) * 12_000
    job_id = await site.done(output)
    async with connect(way) as client:
        await client.send(request("GET /healthz") + request(f"GET /api/results/{job_id}/stdout"))
        await client.half_close()
        await asyncio.sleep(0.1)  # however much the kernel takes by then
        answer = await client.rest()
    assert statuses(answer) == [200, 200]
    assert answer.endswith(b"\r\n\r\n" + output)


@pytest.mark.parametrize("path", ["jobs", "statuses"])
@pytest.mark.parametrize("way", TRANSPORTS)
async def test_n1_it_waits_for_the_result(site: Site, connect: Connect, way: str, path: str) -> None:
    """N1: `Prefer: wait` works for a half-closed client as for any other."""
    runner = site.simulated_runner()
    sent = request("POST /api/jobs", "Prefer: wait=20", body=JOB)
    if path == "statuses":
        sent = request(f"GET /api/statuses/{await site.submit()}", "Prefer: wait=20")
    async with connect(way) as client, asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(client.answer(sent))
        await runner.claim()
        await until(lambda: half_closed(site), what="the end has arrived")
        await runner.finish()
    assert statuses(answer.result()) == [200 if path == "jobs" else 303]


def half_closed(site: Site) -> bool:
    """Return whether there are connections, and all are half-closed."""
    connections = site.app[CONNECTIONS]._open
    return bool(connections) and all(each.is_half_closed for each in connections)


@pytest.mark.parametrize("path", ["events", "output?follow=true"])
@pytest.mark.parametrize("way", TRANSPORTS)
async def test_n1_streams_go_on(site: Site, connect: Connect, way: str, path: str) -> None:
    """N1: a half-closed client follows a job to its end, through pauses of many heartbeats."""
    site.app[STREAMS].heartbeat = 0.05
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    async with connect(way) as client, asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(client.answer(request(f"GET /api/statuses/{job_id}/{path}")))
        await until(lambda: half_closed(site), what="the end has arrived")
        await asyncio.sleep(0.2)  # heartbeats in which nothing happens are what this is about
        runner.write(b"late\n")
        await asyncio.sleep(0.1)
        runner.write(b"later\n")
        await runner.finish()
    assert b"late\\n" in answer.result() or b"late\n" in answer.result()
    assert b"later" in answer.result()
    assert answer.result().endswith(b"\r\n0\r\n\r\n")


INCOMPLETE = {
    "nothing": b"",
    "half a line": b"POST /api/jo",
    "half a head": request("POST /api/jobs", body=JOB).partition(b"\r\n\r\n")[0],
    "no body": request("POST /api/jobs", body=JOB).removesuffix(JOB),
    "half a body": request("POST /api/jobs", body=JOB)[:-1],
    "no chunk": CHUNKED,
    "half a chunk": CHUNKED + b"%x\r\n%b" % (len(JOB), JOB[:-1]),
    "no last chunk": CHUNKED + b"%x\r\n%b\r\n" % (len(JOB), JOB),
    "half a last chunk": CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(JOB), JOB),
    "expect": request("POST /api/jobs", "Expect: 100-continue", body=JOB).removesuffix(JOB),
    "behind an upgrade": request("GET /healthz", "Connection: Upgrade", "Upgrade: websocket")
    + request("POST /api/jobs", body=JOB)[:-1],
    "behind a request": request("GET /healthz") + request("POST /api/jobs", body=JOB)[:-1],
}


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_n1_an_incomplete_request_does_nothing(site: Site, connect: Connect, way: str) -> None:
    """N1: an end before the end of the request is 400 or a close, at once, and no job is made of it."""
    for name, sent in INCOMPLETE.items():
        async with asyncio.timeout(5), connect(way) as client:
            answer = await client.answer(sent)
        assert [status for status in statuses(answer) if status not in (100, 200)] in ([], [400]), name
        assert (await site.get("/api/jobs")).json["jobs"] == [], name


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_n1_an_idle_connection_is_closed(site: Site, connect: Connect, way: str) -> None:
    """N1: the end of a client that has all its answers closes the connection at once."""
    async with asyncio.timeout(5), connect(way) as client:
        await client.send(request("GET /healthz"))
        assert statuses(await client.read()) == [200]
        await client.half_close()
        assert await client.rest() in (b"", b"ok\n")


async def test_n1_without_a_token_it_is_refused_with_a_reason(tmp_path: Path) -> None:
    """N1: a half-closed TCP client without a token has no certain owner: it gets the refusal, and nothing runs."""
    async with serving(tmp_path) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(request("POST /api/jobs", body=JOB).replace(b"PORT", b"%d" % site.port))
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert statuses(answer) in ([202], [403])  # it depends on which of both the server sees first
        assert len((await site.get("/api/jobs")).json["jobs"]) == statuses(answer).count(202)


@pytest.fixture(params=["local", "remote"])
def near(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel knows the client's end too; over a network it does not."""
    if request.param == "remote":
        monkeypatch.setattr("shellrunner.web.http.connections.peer_has_left", lambda _: None)
    return bool(request.param == "local")


@pytest.mark.heavy
@pytest.mark.parametrize("way", ["tcp", "unix", "tls-notify-fin"])
@pytest.mark.parametrize("path", ["statuses/1/events", "statuses/events", "statuses/1/output?follow=true", "wait"])
async def test_n1_e8_a_client_that_closed_everything_is_freed(
    site: Site, connect: Connect, near: bool, way: str, path: str
) -> None:
    """N1, E8: whether half-closed before or not, a client that has gone is freed within two heartbeats."""
    site.app[STREAMS].heartbeat = 0.2
    site.app[CONNECTIONS].limits = ConnectionLimits(head_timeout=0.2)
    await site.submit()
    sent = request(f"GET /api/{path}")
    if path == "wait":
        sent = request("GET /api/statuses/1", "Prefer: wait=50")
    loop = asyncio.get_running_loop()
    for half_first in (False, True):
        async with connect(way) as client:
            await client.send(sent)
            await until(lambda: bool(site.app[STREAMS]._timeouts), what="it waits")
            if half_first:
                await client.half_close()
                await until(lambda: half_closed(site), what="the end has arrived")
            client.writer.close()
            began = loop.time()
            await until(lambda: not len(site.app[CONNECTIONS]), what="it is freed")
            assert loop.time() - began < 2 * 0.2 + 0.6
            await until(lambda: not site.app[STREAMS]._timeouts, what="its handler has ended")


async def test_n1_a_reset_behind_the_end_is_noticed(site: Site, connect: Connect) -> None:
    """N1: a reset after a half-close, which asyncio does not see, frees the connection too."""
    site.app[CONNECTIONS].limits = ConnectionLimits(head_timeout=0.4)
    await site.submit()
    async with connect("tcp") as client:
        await client.send(request("GET /api/statuses/1", "Prefer: wait=50"))
        await client.half_close()
        await until(lambda: half_closed(site), what="the end has arrived")
        raw = client.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.writer.transport.abort()
        await until(lambda: not len(site.app[CONNECTIONS]), 2, what="it is freed")


async def test_n1_who_may_have_gone_makes_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """N1: a reloaded page finds room for its streams, although those before it may not be known to have gone."""
    monkeypatch.setattr("shellrunner.web.http.connections.peer_has_left", lambda _: None)
    site.app[STREAMS].max_per_identity = 1
    for _ in range(3):
        answer = await site.session.get(f"http://127.0.0.1:{site.port}/api/statuses/events")
        assert answer.status == 200
        connection = answer.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.write_eof()
        await until(lambda: half_closed(site), what="the end has arrived")
    await until(lambda: len(site.app[CONNECTIONS]) == 1, what="the others were ended")


TLS_INTERNALS = [
    "_app_protocol", "_app_reading_paused", "_app_state", "_app_transport", "_call_eof_received",
    "_check_handshake_timeout", "_do_read", "_do_shutdown", "_on_handshake_complete", "_on_shutdown_complete",
    "_outgoing", "_sslobj", "_start_shutdown", "_state", "_transport",
]  # fmt: skip


async def test_asyncio_still_has_what_half_closed_tls_needs(certificate: Path) -> None:
    """`tls_protocol` overrides and uses these: without one, half-closed clients would get no answer."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made: Any = over_tls(asyncio.Protocol, context)()
    base = type(made).__mro__[1]
    assert base.__module__ == "asyncio.sslproto"
    assert [name for name in TLS_INTERNALS if not (hasattr(made, name) or hasattr(base, name))] == []
    overridden = [name for name in vars(type(made)) if callable(getattr(type(made), name)) and name != "__init__"]
    assert [name for name in overridden if not hasattr(base, name)] == ["_report", "_handle_tcp_end"]
    made._app_transport._closed = True  # it was never connected
