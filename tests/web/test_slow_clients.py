"""Clients that are slow, silent, do not read, or are too many: they are dropped in time, and others are served."""

import asyncio
import gzip
import logging
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shellrunner.access import Identity
from shellrunner.model import JobSpec
from shellrunner.service.network.tls_protocol import over_tls
from shellrunner.web.app_keys import AUTHENTICATOR
from shellrunner.web.http.connections import CONNECTIONS, ClientConnection, ConnectionLimits
from shellrunner.web.http.revocation import REVOCATIONS
from shellrunner.web.http.streaming import STREAMS
from tests.support.site import SimulatedRunner, Site, serving
from tests.support.waiting import until

SHORT_LIMITS = ConnectionLimits(head_timeout=0.2, send_timeout=0.4)
HOST = b"Host: localhost:PORT\r\n"
ASK = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path) as running:
        running.app[CONNECTIONS].limits = SHORT_LIMITS
        yield running


@asynccontextmanager
async def connected(
    site: Site, address: Any = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a connection from which no more is read than the test reads."""
    if isinstance(address, str):
        reader, writer = await asyncio.open_unix_connection(address, limit=1024)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def with_port(site: Site, data: bytes) -> bytes:
    return data.replace(b"PORT", str(site.port).encode())


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Return the bytes that arrive until the server has closed the connection."""
    got = b""
    async with asyncio.timeout(10):
        try:
            while piece := await reader.read(1 << 16):
                got += piece
        except ConnectionError:
            pass
    return got


def drops(site: Site) -> dict[str, int]:
    """How many connections were dropped, by reason."""
    return {reason: number for reason, number in site.app[CONNECTIONS].cut.items() if number}


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte every 20 ms until the connection ends."""
    try:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass


SLOW_HEADS = {
    "nothing at all": b"",
    "half a line": b"GET /heal",
    "no end of headers": b"GET /healthz HTTP/1.1\r\n" + HOST,
}


@pytest.mark.parametrize("begun", SLOW_HEADS.values(), ids=SLOW_HEADS)
async def test_a_head_that_does_not_arrive_is_dropped(site: Site, begun: bytes) -> None:
    """A connection without a whole head in time is dropped without a response."""
    async with connected(site) as (reader, writer):
        writer.write(with_port(site, begun))
        assert await ended(reader) == b""
    assert drops(site) == {"slow-head": 1}


async def test_a_head_that_drips_is_dropped(site: Site) -> None:
    """A head that arrives byte by byte is dropped: the time counts from its first byte to its end."""
    async with connected(site) as (reader, writer), asyncio.TaskGroup() as tasks:
        dripping = tasks.create_task(drip(writer, with_port(site, ASK) * 10))
        assert await ended(reader) == b""
        dripping.cancel()
    assert drops(site) == {"slow-head": 1}


@pytest.mark.parametrize("first", [ASK, ASK[:-2] + b"Content-Length: 2\r\n\r\n{}"], ids=["bare", "body"])
async def test_the_second_head_has_its_own_time(site: Site, first: bytes) -> None:
    """A connection is not dropped for waiting between two requests, but for a slow second head."""
    async with connected(site) as (reader, writer):
        writer.write(with_port(site, first))
        assert await reader.readuntil(b"ok\n")
        checks = count_checks(site)
        await until(lambda: checks() > 6)  # more than its time
        writer.write(with_port(site, ASK))
        assert await reader.readuntil(b"ok\n")
        writer.write(b"GET /")
        assert await ended(reader) == b""


async def test_half_a_head_does_not_end_the_response_before_it(site: Site) -> None:
    """Half a head that follows a request does not end the response to that request."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    async with connected(site) as (reader, writer):
        writer.write(
            with_port(site, b"GET /api/statuses/%d HTTP/1.1\r\n" % job_id + HOST + b"Prefer: wait=60\r\n\r\n")
        )
        await until(lambda: bool(site.app[STREAMS]._timeouts))
        writer.write(b"GET /healthz HT")
        checks = count_checks(site)
        await until(lambda: checks() > 6)
        await runner.finish()
        assert (await reader.readline()).startswith(b"HTTP/1.1 303 ")
        assert b"/healthz" not in await ended(reader)
    assert drops(site) == {"slow-head": 1}


def count_checks(site: Site) -> Any:
    """Count how often the deadlines are checked from now on."""
    connections, seen = site.app[CONNECTIONS], 0
    log_drops = connections._log_drops

    def counted() -> None:
        nonlocal seen
        seen += 1
        log_drops()

    connections._log_drops = counted  # type: ignore[method-assign]
    return lambda: seen


async def test_a_slow_body_has_its_own_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow body may take longer than a head, and is 408 after its own time."""
    monkeypatch.setattr("shellrunner.web.http.bodies.BODY_TIMEOUT", 1.0)
    head = b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
    loop = asyncio.get_running_loop()
    async with connected(site) as (reader, writer), asyncio.TaskGroup() as tasks:
        began = loop.time()
        writer.write(with_port(site, head))
        dripping = tasks.create_task(drip(writer, b" " * 9999))
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        assert loop.time() - began > 0.9
        dripping.cancel()
    assert not drops(site)


async def test_an_unfinished_large_head_is_dropped(site: Site) -> None:
    """A head over the limit is dropped before its end, although each of its lines is short enough."""
    async with connected(site) as (reader, writer), asyncio.TaskGroup() as tasks:
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        lines = tasks.create_task(flood(writer, b"X: " + b"x" * 2000 + b"\r\n"))
        assert await ended(reader) == b""
        lines.cancel()
    assert drops(site) == {"large-head": 1}


async def test_a_large_head_is_rejected(site: Site) -> None:
    """Headers that are too long together are 431, although each is short enough; a little less is served."""
    for number, status in ((30, 200), (33, 431)):
        headers = b"".join(b"X: %s\r\n" % (b"x" * 1000) for _ in range(number))
        answer = await site.raw(
            b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + headers + with_port(site, HOST) + b"\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 %d " % status)


def shrink_send_buffer(site: Site) -> ClientConnection:
    """Let the kernel buffer little of what is written to the one connection."""
    (line,) = site.app[CONNECTIONS]._open
    line.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return line


async def flood(writer: asyncio.StreamWriter, request: bytes) -> None:
    """Send it repeatedly until the connection ends."""
    try:
        while True:
            writer.write(request)
            await writer.drain()
    except ConnectionError:
        pass


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_a_client_that_never_reads_is_dropped(site: Site, unix: bool) -> None:
    """A client that pipelines requests and reads nothing is dropped, before its responses pile up."""
    path, job_id = str(site.state_dir / "s"), await site.done(b"x" * 50_000)
    ask = with_port(site, b"GET /api/results/%d HTTP/1.1\r\n" % job_id + HOST + b"\r\n")
    if unix:
        await web.UnixSite(site.runner, path).start()
    most = 0
    async with connected(site, path if unix else None) as (_, writer), asyncio.TaskGroup() as tasks:
        await until(lambda: len(site.app[CONNECTIONS]) == 1)
        shrink_send_buffer(site)
        flooding = tasks.create_task(flood(writer, ask * 20))

        def cut() -> bool:
            nonlocal most
            for line in site.app[CONNECTIONS]._open:
                most = max(most, line.transport.get_write_buffer_size())
            return bool(drops(site))

        await until(cut, 20)
        await until(lambda: not len(site.app[CONNECTIONS]))
        flooding.cancel()
    assert 0 < most < 120_000  # one answer above what may wait
    assert drops(site) == {"not-reading": 1}
    assert (await site.get("/healthz")).status == 200


@pytest.mark.heavy
async def test_a_client_that_reads_slowly_is_not_dropped(site: Site) -> None:
    """A client that reads a little again and again is not dropped, however slow it is."""
    site.app[CONNECTIONS].limits = replace(SHORT_LIMITS, send_timeout=2.0)  # this process may be held up meanwhile
    job_id = await site.done(bytes(1 << 24))
    with socket.socket() as slow:
        # With much less, the kernel itself would make pauses of half a second.
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        slow.connect(("127.0.0.1", site.port))
        slow.sendall(with_port(site, b"GET /api/results/%d/stdout HTTP/1.1\r\n" % job_id + HOST + b"\r\n"))
        checks, taken = count_checks(site), 0
        slow.setblocking(False)
        while checks() < 48:  # longer than one may take nothing
            await asyncio.sleep(0.01)
            taken += len(await asyncio.get_running_loop().sock_recv(slow, 16_384))
            assert len(site.app[CONNECTIONS]) == 1
        assert not drops(site)
        assert 0 < taken < 1 << 24


async def test_the_last_bytes_do_not_keep_a_connection_open(site: Site) -> None:
    """A connection that the server has closed is dropped if the client never reads the end of the response."""
    job_id = await site.done(b"x" * 60_000)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", site.port))
        deaf.setblocking(False)
        await until(lambda: len(site.app[CONNECTIONS]) == 1)
        line = shrink_send_buffer(site)
        ask = b"GET /api/results/%d HTTP/1.1\r\n" % job_id + HOST + b"Connection: close\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(deaf, with_port(site, ask))
        await until(line.transport.is_closing)
        await until(lambda: not len(site.app[CONNECTIONS]))
    assert drops(site) == {"not-reading": 1}


async def test_where_all_connections_are_taken_what_waits_makes_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit applies to all connections together; for a new one the one that waits longest is closed."""
    async with serving(tmp_path, server={"max_connections": 3}) as site:
        limits = site.app[CONNECTIONS].limits
        assert (limits.max_connections, limits.max_unauthenticated) == (3, 1)
        site.app[CONNECTIONS].limits = replace(limits, head_timeout=0.2)
        path = str(tmp_path / "s")
        await web.UnixSite(site.runner, path).start()
        with caplog.at_level(logging.WARNING, "shellrunner.web"):
            async with connected(site) as (first, _), connected(site, path) as (second, _), connected(site):
                await until(lambda: len(site.app[CONNECTIONS]) == 3)
                assert (await site.get("/healthz")).status == 200
                assert await ended(first) == b""
                async with connected(site, path):
                    await until(lambda: len(site.app[CONNECTIONS]) == 3)
                async with connected(site):
                    assert await ended(second) == b""
                    assert drops(site) == {"idle": 2}
            await until(lambda: bool(caplog.records))
    (record,) = caplog.records
    assert (record.getMessage(), record.max_connections) == ("connections dropped", 3)  # type: ignore[attr-defined]


async def test_where_all_connections_are_in_use_one_too_many_is_closed(tmp_path: Path) -> None:
    """What is being answered, or is sending a request, does not make way: then a new connection is closed at once."""
    async with serving(tmp_path, server={"max_connections": 3}) as site, AsyncExitStack() as stack:
        job_id = await site.submit()
        for _ in range(2):
            await stack.enter_async_context(site.events(job_id))
        _, sending = await stack.enter_async_context(connected(site))
        sending.write(b"GET /heal")
        await until(lambda: not any(each.is_waiting for each in site.app[CONNECTIONS]))
        assert len(site.app[CONNECTIONS]) == 3
        async with connected(site) as (reader, _):
            assert await ended(reader) == b""
        assert drops(site) == {"one-too-many": 1}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2"
    subprocess.run([*command.split(), "-keyout", path, "-out", path], check=True, capture_output=True)
    return path


async def test_handshakes_that_never_end_make_way(tmp_path: Path, certificate: Path) -> None:
    """Pending TLS handshakes are connections like others: they count, make way for new ones, and end in time."""
    async with serving(tmp_path) as site:
        connections, limits = site.app[CONNECTIONS], ConnectionLimits(max_connections=3, head_timeout=0.5)
        connections.limits = limits
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        assert site.runner.server is not None
        listener = await asyncio.get_running_loop().create_server(
            over_tls(site.runner.server, context), "127.0.0.1", 0
        )
        address = listener.sockets[0].getsockname()
        silent = [await asyncio.open_connection(*address) for _ in range(3)]
        await until(lambda: len(connections) == 3)
        async with site.session.get(f"https://127.0.0.1:{address[1]}/healthz", ssl=False) as answer:
            assert answer.status == 200
        assert await ended(silent[0][0]) == b""
        assert drops(site) == {"idle": 1}
        broken = await asyncio.open_connection(*address)
        broken[1].write(b"GET / HTTP/1.1\r\n\r\n")  # no TLS
        await ended(broken[0])
        for reader, _ in silent[1:]:
            assert await ended(reader) == b""
        assert drops(site) == {"idle": 1, "slow-head": 2}
        await until(lambda: not len(connections))
        for _, writer in [*silent, broken]:
            writer.transport.abort()
        listener.close()


@pytest.mark.heavy
async def test_others_are_served_while_hundreds_are_slow(tmp_path: Path) -> None:
    """Four hundred bad clients keep no other from being served, and all of them are dropped in time."""
    kinds = [b"", b"GET /", b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 99\r\n\r\n", ASK * 8]
    async with serving(tmp_path) as site:
        connections = site.app[CONNECTIONS]
        connections.limits = ConnectionLimits(head_timeout=60.0, send_timeout=2.0)
        bad = [await asyncio.open_connection("127.0.0.1", site.port, limit=1024) for _ in range(400)]
        for number, (_, writer) in enumerate(bad):
            writer.write(with_port(site, kinds[number % len(kinds)]))
        await until(lambda: len(connections) == 400)
        for _ in range(20):
            await site.submit()
        assert connections.cut["slow-head"] == 0  # they are all there while the others are served
        connections.limits = ConnectionLimits(head_timeout=2.0, send_timeout=2.0)
        await until(lambda: connections.cut["slow-head"] >= 200, 20)
        for _, writer in bad:
            writer.transport.abort()


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Return 256 MiB of zeros, compressed."""
    return gzip.compress(bytes(1 << 28), 1)


@pytest.mark.heavy
@pytest.mark.parametrize("asked", ["POST /api/jobs", "GET /healthz"])
async def test_a_compressed_body_delays_nobody(site: Site, asked: str, bomb: bytes) -> None:
    """A compressed body is never decompressed, not even to be discarded, so that it costs no more than its size."""
    head = (
        f"{asked} HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    )
    began = time.process_time()
    for _ in range(4):
        async with connected(site) as (reader, writer):
            writer.write(with_port(site, head.encode() + bomb))
            assert (await reader.readline()).startswith(b"HTTP/1.1 ")
            async with site.session.get(f"http://127.0.0.1:{site.port}/healthz") as answer:
                assert answer.status == 200
    assert time.process_time() - began < 0.3


async def test_one_stream_too_many(tmp_path: Path) -> None:
    """Streams over an identity's limit are 429, whatever they follow; each that ends makes way for another."""
    async with serving(tmp_path, server={"max_streams": 3}) as site:
        site.app[STREAMS].heartbeat = 0.05
        job_id = await site.submit()
        follow = [
            f"/api/statuses/{job_id}/events",
            "/api/statuses/events",
            f"/api/statuses/{job_id}/output?follow=true",
        ]
        for _ in range(2):
            clients = [
                await site.session.get(f"http://127.0.0.1:{site.port}{path}", allow_redirects=False)
                for path in follow
            ]
            assert [client.status for client in clients] == [200] * 3
            for path in follow:
                refused = await site.get(path)
                assert (refused.status, refused.json["type"]) == (429, "/problems/too-many-streams")
                assert refused.json["limit"] == 3
            # What has an end is no stream, and who is over the cap may do all else.
            assert (await site.get(f"/api/statuses/{job_id}/output")).status == 200
            for client in clients:
                client.close()
            await until(lambda: not site.app[STREAMS].count())
        (first,) = [await site.session.get(f"http://127.0.0.1:{site.port}{follow[0]}")]
        await site.store.request_cancel(job_id)
        assert b"event: done" in await first.read()
        await until(lambda: not site.app[STREAMS].count())


async def test_the_limit_is_per_identity(site: Site) -> None:
    """The streams of one identity do not count for another."""
    site.app[STREAMS].max_per_identity = 1
    authenticator, names = site.app[AUTHENTICATOR], iter(["token:a", "token:b", "token:b"])
    authenticator.authenticate_uid = lambda _, **_more: Identity(next(names), frozenset({"read"}))  # type: ignore[method-assign]
    url = f"http://127.0.0.1:{site.port}/api/statuses/events"
    async with site.session.get(url) as first, site.session.get(url) as second, site.session.get(url) as third:
        assert [first.status, second.status, third.status] == [200, 200, 429]


@pytest.mark.parametrize("busy", [False, True], ids=["silent", "busy"])
@pytest.mark.parametrize("path", ["statuses/%d/events", "statuses/%d/output?follow=true", "statuses/events"])
async def test_a_stream_ends_when_its_identity_is_no_longer_valid(site: Site, path: str, busy: bool) -> None:
    """Once an identity is no longer valid, its stream is aborted, whether busy or silent."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    admitted = True
    site.app[AUTHENTICATOR].is_still_valid = lambda _: admitted  # type: ignore[assignment,method-assign]
    target = (f"/api/{path}" % job_id if "%" in path else f"/api/{path}").encode()
    async with connected(site) as (reader, writer), asyncio.TaskGroup() as tasks:
        writer.write(with_port(site, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"))
        working = tasks.create_task(work(site, runner)) if busy else None
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        rest = tasks.create_task(ended(reader))
        site.app[REVOCATIONS].check()
        await asyncio.sleep(0)
        assert not rest.done()  # it goes on for as long as it may
        admitted = False
        site.app[REVOCATIONS].check()
        await until(rest.done, 1.0)
        assert not rest.result().endswith(b"\r\n0\r\n\r\n")
        if working:
            working.cancel()


async def work(site: Site, runner: SimulatedRunner) -> None:
    """Let the job write and submit others, all the time."""
    while True:
        runner.write(b"x")
        await site.store.add(JobSpec(command="true"))
        await asyncio.sleep(0.01)
