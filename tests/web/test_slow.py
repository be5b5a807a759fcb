"""Clients that are slow, silent, deaf or too many: they are cut in their time, and others are served meanwhile."""

import asyncio
import gzip
import logging
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shellrunner.access import Identity
from shellrunner.model import JobSpec
from shellrunner.web.app_keys import AUTHENTICATOR
from shellrunner.web.http.connections import CONNECTIONS, ClientConnection, ConnectionLimits
from shellrunner.web.http.streaming import STREAMS
from tests.support.site import SimulatedRunner, Site, serving
from tests.support.waiting import until

QUICK = ConnectionLimits(head_timeout=0.2, send_timeout=0.4)
HOST = b"Host: localhost:PORT\r\n"
ASK = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path) as running:
        running.app[CONNECTIONS].limits = QUICK
        yield running


@asynccontextmanager
async def connected(
    site: Site, address: Any = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of which nobody reads more than is asked for."""
    if isinstance(address, str):
        reader, writer = await asyncio.open_unix_connection(address, limit=1024)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def real(site: Site, data: bytes) -> bytes:
    return data.replace(b"PORT", str(site.port).encode())


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the server has cut the connection."""
    got = b""
    async with asyncio.timeout(10):
        try:
            while piece := await reader.read(1 << 16):
                got += piece
        except ConnectionError:
            pass
    return got


def cuts(site: Site) -> dict[str, int]:
    """How many connections were cut, by what for."""
    return {reason: number for reason, number in site.app[CONNECTIONS].cut.items() if number}


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte every now and then, as long as somebody takes them."""
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
async def test_a_head_that_does_not_come_is_cut(site: Site, begun: bytes) -> None:
    """Whoever opens a connection, and does not send a whole head in time, is cut without an answer to it."""
    async with connected(site) as (reader, writer):
        writer.write(real(site, begun))
        assert await ended(reader) == b""
    assert cuts(site) == {"slow-head": 1}


async def test_a_head_that_drips_is_cut(site: Site) -> None:
    """Signs of life do not help: the time counts from the first byte to the end of the head."""
    async with connected(site) as (reader, writer), asyncio.TaskGroup() as tasks:
        dripping = tasks.create_task(drip(writer, real(site, ASK) * 10))
        assert await ended(reader) == b""
        dripping.cancel()
    assert cuts(site) == {"slow-head": 1}


@pytest.mark.parametrize("first", [ASK, ASK[:-2] + b"Content-Length: 2\r\n\r\n{}"], ids=["bare", "body"])
async def test_the_second_head_has_its_own_time(site: Site, first: bytes) -> None:
    """A connection that waits between two requests is not cut for that, but for a slow second head."""
    async with connected(site) as (reader, writer):
        writer.write(real(site, first))
        assert await reader.readuntil(b"ok\n")
        looks = count_looks(site)
        await until(lambda: looks() > 6)  # more than its time
        writer.write(real(site, ASK))
        assert await reader.readuntil(b"ok\n")
        writer.write(b"GET /")
        assert await ended(reader) == b""


async def test_a_head_behind_a_long_answer_is_no_reason(site: Site) -> None:
    """Half a head, sent while a request is being answered, does not cut that answer short."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    async with connected(site) as (reader, writer):
        writer.write(real(site, b"GET /api/statuses/%d HTTP/1.1\r\n" % job_id + HOST + b"Prefer: wait=60\r\n\r\n"))
        await until(lambda: bool(site.app[STREAMS]._timeouts))
        writer.write(b"GET /healthz HT")
        looks = count_looks(site)
        await until(lambda: looks() > 6)
        await runner.finish()
        assert (await reader.readline()).startswith(b"HTTP/1.1 303 ")
        assert b"/healthz" not in await ended(reader)
    assert cuts(site) == {"slow-head": 1}


def count_looks(site: Site) -> Any:
    """Count from now on how often the clock was looked at."""
    connections, seen = site.app[CONNECTIONS], 0
    tell = connections._log_drops

    def told() -> None:
        nonlocal seen
        seen += 1
        tell()

    connections._log_drops = told  # type: ignore[method-assign]
    return lambda: seen


async def test_a_slow_body_has_its_own_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that drips outlives the time for heads, and is 408 at the end of its own."""
    monkeypatch.setattr("shellrunner.web.http.bodies.BODY_TIMEOUT", 1.0)
    head = b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
    loop = asyncio.get_running_loop()
    async with connected(site) as (reader, writer), asyncio.TaskGroup() as tasks:
        began = loop.time()
        writer.write(real(site, head))
        dripping = tasks.create_task(drip(writer, b" " * 9999))
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        assert loop.time() - began > 0.9
        dripping.cancel()
    assert not cuts(site)


async def test_a_large_head_is_not_kept(site: Site) -> None:
    """A head that grows beyond its bound, each of its lines within theirs, is cut before it has ended."""
    async with connected(site) as (reader, writer), asyncio.TaskGroup() as tasks:
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        lines = tasks.create_task(flood(writer, b"X: " + b"x" * 2000 + b"\r\n"))
        assert await ended(reader) == b""
        lines.cancel()
    assert cuts(site) == {"large-head": 1}


async def test_a_large_head_is_refused(site: Site) -> None:
    """Headers that are too long together are 431, though each is short enough; what is just below is served."""
    for number, status in ((30, 200), (33, 431)):
        headers = b"".join(b"X: %s\r\n" % (b"x" * 1000) for _ in range(number))
        answer = await site.raw(
            b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + headers + real(site, HOST) + b"\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 %d " % status)


def narrow(site: Site) -> ClientConnection:
    """Have the kernel keep little of what is written to the one connection."""
    (line,) = site.app[CONNECTIONS]._open
    line.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return line


async def flood(writer: asyncio.StreamWriter, request: bytes) -> None:
    """Send it again and again."""
    try:
        while True:
            writer.write(request)
            await writer.drain()
    except ConnectionError:
        pass


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_whoever_asks_on_and_never_reads_is_cut(site: Site, unix: bool) -> None:
    """Small answers are not collected for a client that pipelines requests and takes nothing: it is cut."""
    path, job_id = str(site.state_dir / "s"), await site.done(b"x" * 50_000)
    ask = real(site, b"GET /api/results/%d HTTP/1.1\r\n" % job_id + HOST + b"\r\n")
    if unix:
        await web.UnixSite(site.runner, path).start()
    most = 0
    async with connected(site, path if unix else None) as (_, writer), asyncio.TaskGroup() as tasks:
        await until(lambda: len(site.app[CONNECTIONS]) == 1)
        narrow(site)
        flooding = tasks.create_task(flood(writer, ask * 20))

        def cut() -> bool:
            nonlocal most
            for line in site.app[CONNECTIONS]._open:
                most = max(most, line.transport.get_write_buffer_size())
            return bool(cuts(site))

        await until(cut, 20)
        await until(lambda: not len(site.app[CONNECTIONS]))
        flooding.cancel()
    assert 0 < most < 120_000  # one answer above what may wait
    assert cuts(site) == {"not-reading": 1}
    assert (await site.get("/healthz")).status == 200


async def test_a_reader_that_takes_little_is_not_cut(site: Site) -> None:
    """Whoever takes something again and again may be as slow as it likes."""
    job_id = await site.done(bytes(1 << 24))
    with socket.socket() as slow:
        # With much less, the kernel itself would make pauses of half a second.
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        slow.connect(("127.0.0.1", site.port))
        slow.sendall(real(site, b"GET /api/results/%d/stdout HTTP/1.1\r\n" % job_id + HOST + b"\r\n"))
        looks, taken = count_looks(site), 0
        slow.setblocking(False)
        while looks() < 12:  # longer than one may take nothing
            await asyncio.sleep(0.01)
            taken += len(await asyncio.get_running_loop().sock_recv(slow, 16_384))
            assert len(site.app[CONNECTIONS]) == 1
        assert not cuts(site)
        assert 0 < taken < 1 << 24


async def test_the_last_bytes_do_not_keep_a_connection_open(site: Site) -> None:
    """A connection that the server has closed, but whose client never reads the end of the answer, is cut too."""
    job_id = await site.done(b"x" * 60_000)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", site.port))
        deaf.setblocking(False)
        await until(lambda: len(site.app[CONNECTIONS]) == 1)
        line = narrow(site)
        ask = b"GET /api/results/%d HTTP/1.1\r\n" % job_id + HOST + b"Connection: close\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(deaf, real(site, ask))
        await until(line.transport.is_closing)
        assert len(site.app[CONNECTIONS]) == 1
        await until(lambda: not len(site.app[CONNECTIONS]))
    assert cuts(site) == {"not-reading": 1}


async def test_one_connection_too_many_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The cap holds for all connections together; the one over it is closed at once, and the log says so once."""
    async with serving(tmp_path, server={"max_connections": 3}) as site:
        assert site.app[CONNECTIONS].limits == ConnectionLimits(max_connections=3)
        site.app[CONNECTIONS].limits = ConnectionLimits(max_connections=3, head_timeout=0.2)
        path = str(tmp_path / "s")
        await web.UnixSite(site.runner, path).start()
        with caplog.at_level(logging.WARNING, "shellrunner.web"):
            async with connected(site) as (_, first), connected(site, path), connected(site):
                await until(lambda: len(site.app[CONNECTIONS]) == 3)
                for address in (None, path, None):
                    async with connected(site, address) as (reader, _):
                        assert await ended(reader) == b""
                first.close()
                await until(lambda: len(site.app[CONNECTIONS]) == 2)
                assert (await site.get("/healthz")).status == 200
            await until(lambda: bool(site.app[CONNECTIONS].cut["slow-head"]) or not len(site.app[CONNECTIONS]))
            await until(lambda: bool(caplog.records))
    (said,) = caplog.records
    assert (said.getMessage(), said.one_too_many, said.max_connections) == ("connections dropped", 3, 3)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2"
    subprocess.run([*command.split(), "-keyout", path, "-out", path], check=True, capture_output=True)
    return path


# What was accepted and refused before its handshake is closed by asyncio only by being dropped.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_handshakes_that_never_end_are_bounded(tmp_path: Path, certificate: Path) -> None:
    """Connections whose TLS handshake does not come are no more than the cap, and make room afterwards."""
    caps = ConnectionLimits(max_connections=3, head_timeout=0.5)
    async with serving(tmp_path) as site:
        site.app[CONNECTIONS].limits = caps
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        loop, server = asyncio.get_running_loop(), site.runner.server
        assert server is not None
        listener = await loop.create_server(
            server, "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=caps.head_timeout
        )
        address = listener.sockets[0].getsockname()
        expected = site.app[CONNECTIONS]._pending
        silent = [socket.create_connection(address) for _ in range(3)]
        await until(lambda: len(expected) == 3)
        reader, writer = await asyncio.open_connection(*address)
        assert await ended(reader) == b""
        writer.transport.abort()
        assert cuts(site) == {"one-too-many": 1}
        await until(lambda: all(loop.time() - since > caps.head_timeout for since in expected.values()))
        async with site.session.get(f"https://127.0.0.1:{address[1]}/healthz", ssl=False) as answer:
            assert answer.status == 200
        for each in silent:
            each.close()
        listener.close()


async def test_others_are_served_while_hundreds_are_slow(tmp_path: Path) -> None:
    """A hundred of each kind of bad client hold up nobody else, and all of them are gone in their time."""
    kinds = [b"", b"GET /", b"POST /api/jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 99\r\n\r\n", ASK * 8]
    async with serving(tmp_path) as site:
        site.app[CONNECTIONS].limits = ConnectionLimits(head_timeout=2.0, send_timeout=2.0)
        bad = [await asyncio.open_connection("127.0.0.1", site.port, limit=1024) for _ in range(400)]
        for number, (_, writer) in enumerate(bad):
            writer.write(real(site, kinds[number % len(kinds)]))
        await until(lambda: len(site.app[CONNECTIONS]) == 400)
        loop, waits = asyncio.get_running_loop(), []
        for _ in range(20):
            began = loop.time()
            await site.submit()
            waits.append(loop.time() - began)
        assert sorted(waits)[10] < 0.5
        await until(lambda: site.app[CONNECTIONS].cut["slow-head"] >= 200, 20)
        for _, writer in bad:
            writer.transport.abort()


BOMB = gzip.compress(bytes(1 << 28))  # of 256 MiB


@pytest.mark.parametrize("asked", ["POST /api/jobs", "GET /healthz"])
async def test_a_packed_body_holds_up_nobody(site: Site, asked: str) -> None:
    """A body is never unpacked, not even to be dropped: it costs the time of what came, not of what is in it."""
    head = (
        f"{asked} HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n"
    )
    began = time.process_time()
    for _ in range(4):
        async with connected(site) as (reader, writer):
            writer.write(real(site, head.encode() + BOMB))
            assert (await reader.readline()).startswith(b"HTTP/1.1 ")
            async with site.session.get(f"http://127.0.0.1:{site.port}/healthz") as answer:
                assert answer.status == 200
    assert time.process_time() - began < 0.3


async def test_one_stream_too_many(tmp_path: Path) -> None:
    """Streams over an identity's cap are 429, whatever they follow; each that ends, however it does, makes room."""
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


async def test_a_cap_is_each_identitys_own(site: Site) -> None:
    """One identity's streams do not count for another."""
    site.app[STREAMS].max_per_identity = 1
    door, names = site.app[AUTHENTICATOR], iter(["token:a", "token:b", "token:b"])
    door.authenticate_uid = lambda _: Identity(next(names), frozenset({"read"}))  # type: ignore[method-assign]
    url = f"http://127.0.0.1:{site.port}/api/statuses/events"
    async with site.session.get(url) as first, site.session.get(url) as second, site.session.get(url) as third:
        assert [first.status, second.status, third.status] == [200, 200, 429]


@pytest.mark.parametrize("busy", [False, True], ids=["silent", "busy"])
@pytest.mark.parametrize("path", ["statuses/%d/events", "statuses/%d/output?follow=true", "statuses/events"])
async def test_a_stream_of_somebody_who_may_no_longer_read_ends(site: Site, path: str, busy: bool) -> None:
    """Once the door does not admit an identity any more, its stream breaks off within a heartbeat, busy or silent."""
    site.app[STREAMS].heartbeat = 0.1
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    asked: list[bool] = []
    admitted = True

    def is_still_valid(_: Identity) -> bool:
        asked.append(admitted)
        return admitted

    site.app[AUTHENTICATOR].is_still_valid = is_still_valid  # type: ignore[method-assign]
    target = (f"/api/{path}" % job_id if "%" in path else f"/api/{path}").encode()
    async with connected(site) as (reader, writer), asyncio.TaskGroup() as tasks:
        writer.write(real(site, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n"))
        working = tasks.create_task(work(site, runner)) if busy else None
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        rest = tasks.create_task(ended(reader))
        await until(lambda: len(asked) > 3)  # it goes on for as long as it may
        assert not rest.done()
        admitted = False
        await until(rest.done, 1.0)
        assert not rest.result().endswith(b"\r\n0\r\n\r\n")
        if working:
            working.cancel()
    assert asked.count(False) == 1


async def work(site: Site, runner: SimulatedRunner) -> None:
    """Have the job write, and other jobs come, all the time."""
    while True:
        runner.write(b"x")
        await site.store.add(JobSpec(command="true"))
        await asyncio.sleep(0.01)
