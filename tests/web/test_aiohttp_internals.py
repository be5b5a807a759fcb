"""What the service uses of aiohttp beyond its documentation: one test for each attribute, by what breaks without it.

These fail when a new release of aiohttp renames or changes something: mend `web/http/aiohttp_internals.py`, then
raise the bound in pyproject.toml.
"""

import asyncio
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from aiohttp import HttpVersion11, StreamReader, http_exceptions, web, web_protocol
from aiohttp.test_utils import make_mocked_request
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict

from shellrunner.web.http import aiohttp_internals
from shellrunner.web.http.server_protocol import MAX_PIPELINED
from shellrunner.web.http.streaming import STREAMS
from tests.support.site import Site, serving
from tests.support.waiting import until

GET = b"GET %s HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path) as running:
        yield running


@asynccontextmanager
async def busy(site: Site) -> AsyncIterator[tuple[Any, Any]]:
    """Yield the protocol of a connection whose request is being answered, and the client's writer."""
    job_id = await site.submit()
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    path = b"/api/statuses/%d/events" % job_id
    writer.write((GET % path).replace(b"PORT", b"%d" % site.port))
    await until(lambda: len(site.app[STREAMS]._timeouts) == 1)
    assert site.runner.server is not None
    (protocol,) = site.connections
    try:
        yield protocol, writer
    finally:
        writer.transport.abort()


async def test_handler_waiter_that_was_cancelled_logs_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown may stop waiting for a handler just as that ends; setting the cancelled future would be logged."""
    async with busy(site) as (protocol, writer):
        protocol._handler_waiter = asyncio.get_running_loop().create_future()
        protocol._handler_waiter.cancel()
        writer.transport.abort()
        await until(lambda: not site.connections)
        await until(lambda: not protocol._request_in_progress)
    assert "Unhandled exception" not in caplog.text


async def test_max_msg_queue_size_bounds_what_is_read_ahead(site: Site) -> None:
    """Without `MAX_MSG_QUEUE_SIZE` a client could have 32 requests of 64 KiB read ahead; it is set by the runner."""
    assert web_protocol.MAX_MSG_QUEUE_SIZE == MAX_PIPELINED
    async with busy(site) as (protocol, writer):
        writer.write((GET % b"/healthz").replace(b"PORT", b"%d" % site.port) * 40)
        await writer.drain()
        await until(lambda: len(protocol._messages) >= MAX_PIPELINED)
        assert len(protocol._messages) == MAX_PIPELINED


@pytest.mark.heavy
def test_nothing_is_set_by_importing() -> None:
    """An import of the service leaves aiohttp as it is: only a runner changes it."""
    code = "import shellrunner.service, aiohttp.web_protocol as p; print(p.MAX_MSG_QUEUE_SIZE)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "32\n"


async def test_request_count_and_messages_show_that_a_head_is_complete(site: Site) -> None:
    """Without `_request_count` and `_messages` a complete head would count as slow, and its body as a head."""
    async with busy(site) as (protocol, writer):
        assert protocol.request_count == 1
        writer.write(b"POST /api/jobs HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: 5\r\n\r\n" % site.port)
        await until(lambda: protocol.request_count == 2)
        assert not protocol.last_body.is_eof()
        writer.write(b"12345")
        await until(protocol.last_body.is_eof)
        assert protocol._connection._head_since is None


async def test_waiter_shows_whether_a_connection_is_idle(site: Site) -> None:
    """Without `_waiter` a client that is being answered would be dropped for half a head behind its request."""
    async with busy(site) as (protocol, _):
        assert not protocol.is_idle
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write((GET % b"/healthz").replace(b"PORT", b"%d" % site.port))
    assert await reader.readuntil(b"ok\n")
    assert site.runner.server is not None
    await until(lambda: any(each.is_idle for each in site.connections))
    writer.close()


async def test_messages_show_whether_more_is_to_be_answered(site: Site) -> None:
    """Without `_messages` a half-closed client would get the first of its answers only."""
    async with busy(site) as (protocol, writer):
        assert not protocol.has_queued
        writer.write((GET % b"/healthz").replace(b"PORT", b"%d" % site.port))
        await until(lambda: protocol.has_queued)


async def test_make_server_loop_and_kwargs_put_our_protocol_in_place(site: Site) -> None:
    """Without `_make_server`, `_loop` and `_kwargs` aiohttp's own protocol would serve, without deadlines."""
    server: Any = site.runner.server
    assert isinstance(server, aiohttp_internals.ProtocolServer)
    assert server._kwargs["lingering_time"] == 2.0  # an option of make_app, which must survive the copy
    async with busy(site) as (protocol, _):
        assert isinstance(protocol, aiohttp_internals.WatchedProtocol)
        assert protocol._lingering_time == 2.0
        assert protocol._loop is server._loop


async def test_write_without_drain_never_waits_and_writing_paused_shows_it(site: Site) -> None:
    """Without `drain=False` one slow client would hold back a writer to many; `writing_paused` shows who is slow."""
    async with busy(site) as (protocol, writer):
        writer.transport.pause_reading()
        await until(lambda: protocol._current_request.writer.output_size > 0)
        while not protocol.writing_paused:
            with pytest.raises(StopIteration):
                aiohttp_internals.write_now(protocol._current_request, bytes(1 << 17)).send(None)
        with pytest.raises(StopIteration):
            aiohttp_internals.write_now(protocol._current_request, bytes(1 << 17)).send(None)


def test_cache_version_is_what_the_status_line_claims() -> None:
    """Without `_cache["version"]` the response to an unsupported HTTP/1.9 would claim to be HTTP/1.9 itself."""
    request = make_mocked_request("GET", "/", version=(1, 9))  # type: ignore[arg-type]
    aiohttp_internals.override_version(request, HttpVersion11)
    assert request.version == HttpVersion11


async def test_client_max_size_is_what_one_request_may_send() -> None:
    """Without `_client_max_size` a batch could not be larger than all other requests."""
    request = make_mocked_request("POST", "/", payload=_body(b"x" * 20), client_max_size=10)
    aiohttp_internals.limit_body(request, 20)
    assert (await request.read(), request.client_max_size) == (b"x" * 20, 20)
    request = make_mocked_request("POST", "/", payload=_body(b"x" * 21), client_max_size=10)
    aiohttp_internals.limit_body(request, 20)
    with pytest.raises(web.HTTPRequestEntityTooLarge):
        await request.read()


def _body(content: bytes) -> StreamReader:
    body = StreamReader(mock.Mock(), 1 << 16, loop=asyncio.get_running_loop())
    body.feed_data(content)
    body.feed_eof()
    return body


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("handle_error", ["self", "request", "status", "exc", "message"]),
        ("log_exception", ["self", "args", "kw"]),
        ("finish_response", ["self", "request", "resp", "start_time"]),
        ("data_received", ["self", "data"]),
        ("eof_received", ["self"]),
        ("resume_writing", ["self"]),
        ("connection_lost", ["self", "exc"]),
    ],
)
def test_what_our_protocol_overrides_is_there(name: str, parameters: list[str]) -> None:
    """A method that aiohttp renames would be overridden without effect: errors would be aiohttp's own, and HTML."""
    assert list(inspect.signature(getattr(RequestHandler, name)).parameters) == parameters


async def test_line_too_long_is_431(site: Site) -> None:
    """Without `LineTooLong` a header that is too long would be 400 instead of 431."""
    assert issubclass(aiohttp_internals.LineTooLong, http_exceptions.BadHttpMessage)
    got = await site.raw("GET / HTTP/1.1\r\nHost: localhost:PORT\r\nX: " + "x" * 70_000 + "\r\n\r\n")
    assert b" 431 " in got.partition(b"\r\n")[0]


# Parsers of aiohttp that are not used, each with what it gets wrong -----------------------------------------------


def test_if_match_and_if_none_match_read_the_first_line_only() -> None:
    """RFC 9110, 5.3: the lines of a list are one list; `responses._matches` reads all of them."""
    headers = [("If-Match", '"a"'), ("If-Match", '"b"'), ("If-None-Match", '"a"'), ("If-None-Match", '"b"')]
    request = _with_headers(headers)
    assert [tag.value for tag in request.if_match or ()] == ["a"]
    assert [tag.value for tag in request.if_none_match or ()] == ["a"]


def test_if_range_knows_no_entity_tags() -> None:
    """RFC 9110, 13.1.5: `If-Range` may be an entity tag, and ours always is."""
    assert _with_headers([("If-Range", '"a"')]).if_range is None


def test_http_range_takes_the_last_zero_bytes_for_all() -> None:
    """RFC 9110, 14.1.2: `bytes=-0` is not satisfiable; and a number of more than 4300 digits is no error."""
    assert _with_headers([("Range", "bytes=-0")]).http_range == _with_headers([("Range", "bytes=0-")]).http_range
    with pytest.raises(ValueError, match="4300 digits"):
        _ = _with_headers([("Range", "bytes=0-" + "9" * 5000)]).http_range


def _with_headers(headers: list[tuple[str, str]]) -> web.Request:
    return make_mocked_request("GET", "/", headers=CIMultiDict(headers))
