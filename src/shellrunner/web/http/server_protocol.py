"""What aiohttp answers before any handler is reached, in our words, and what it leaves to chance: slow clients.

`Runner` stands in for `web.AppRunner`. Must not know any resource.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from aiohttp import hdrs, http_exceptions, web, web_protocol
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from shellrunner.web.http import problems
from shellrunner.web.http.connections import CONNECTIONS, ClientConnection, Connections
from shellrunner.web.security import origin

_Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log = logging.getLogger("shellrunner.web")

# What a parser says before it quotes what came, which may be a token or part of a body.
_UNQUOTED = re.compile(r"[^:'\"]*")

# How many requests of one connection may be read ahead while one is answered. aiohttp's 32, with 64 KiB of headers
# each, are 2 MiB for whoever asks without reading; it has no other way to say this.
web_protocol.MAX_MSG_QUEUE_SIZE = 8


class _Protocol(RequestHandler):
    __slots__ = ("_body", "_connections", "_line", "at_parting")

    def __init__(self, server: "_Server", line: ClientConnection, **kw: Any) -> None:
        super().__init__(server, **kw)
        self.at_parting: Callable[[], None] | None = None
        self._connections = server.open_connections
        self._line = line
        self._body: StreamReader = EMPTY_PAYLOAD  # of the request that is being read
        line.idle = self._is_idle

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._connections.close(self._line)
        if self.at_parting is not None:
            self.at_parting()

    def data_received(self, data: bytes) -> None:
        requests, in_body = self._request_count, not self._body.is_eof()
        super().data_received(data)
        if self._request_count > requests:
            self._body = self._messages[-1][1]
            self._line.is_asked()
        elif data and not in_body and self._line.hears(len(data)) > self._connections.caps.head_bytes:
            self._connections.drop(self._line, "large-head")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._line.takes()

    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone: no error, and nobody to tell
        answer = _refusal(exc) if status < 500 else problems.internal(exc or RuntimeError(message))
        return _hardened(answer)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        # What is left of a body that cannot be read: its client was told, or asked for nothing that needs it.
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # raised before the gate: `Expect` with something unknown
            resp = _hardened(problems.foreign(resp, request.method, request.path))
        if resp.status >= 400 and (code := resp.get(problems.PROBLEM)):
            self._connections.problems[code] += 1
        return await super().finish_response(request, resp, start_time)


class _PendingConnection(asyncio.Protocol):
    """Where a connection stands until it is one: of TLS that fails nobody is told, but this is dropped."""

    def __init__(self, open_protocol: Callable[[asyncio.Transport, asyncio.Protocol], None]) -> None:
        self._open = open_protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open(cast("asyncio.Transport", transport), self)


class _Server(web.Server):
    open_connections: Connections

    def __call__(self) -> Any:  # not the RequestHandler yet
        step = _PendingConnection(self._open)
        self.open_connections.expect(step)
        return step

    def _open(self, transport: asyncio.Transport, step: asyncio.Protocol) -> None:
        line = self.open_connections.open(step, transport)
        if line is not None:
            protocol = _Protocol(self, line, loop=self._loop, **self._kwargs)
            transport.set_protocol(protocol)
            protocol.connection_made(transport)


class Runner(web.AppRunner):
    """Runs the app so that every answer is one of ours."""

    async def _make_server(self) -> web.Server:
        made: Any = await super()._make_server()
        answer = _as_expected(made.request_handler)
        server = _Server(answer, request_factory=made.request_factory, loop=made._loop, **made._kwargs)  # noqa: SLF001  aiohttp has no public way to say which protocol it should speak
        server.open_connections = self.app[CONNECTIONS]
        return server


def _as_expected(answer: _Answer) -> _Answer:
    async def expected(request: web.BaseRequest) -> web.StreamResponse:
        # aiohttp (3.14.5) refuses this too, but fails in quoting what is not UTF-8.
        if request.headers.get(hdrs.EXPECT, "").lower() not in {"", "100-continue"}:
            raise web.HTTPExpectationFailed
        return await answer(request)

    return expected


@contextmanager
def at_parting(request: web.Request, then: Callable[[], None]) -> Iterator[None]:
    """Have this called if the client goes before the block is left.

    Raises:
        ConnectionError: it has gone.
    """
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    connection = request.protocol
    if isinstance(connection, _Protocol):
        connection.at_parting = then
    try:
        yield
    finally:
        if isinstance(connection, _Protocol):
            connection.at_parting = None


def _refusal(error: BaseException | None) -> web.Response:
    words = _words(error)
    if "'Host' header" in words:  # missing or doubled
        return problems.of(origin.wrong_host())
    if isinstance(error, http_exceptions.LineTooLong) or "Too many headers" in words:
        return problems.problem("headers-too-large", "the request line or a header is too long, or they are too many")
    unquoted = _UNQUOTED.match(words)
    log.debug("not HTTP: %s", unquoted[0].strip() if unquoted else type(error).__name__)
    if words.startswith("Invalid char in url"):
        return problems.problem("bad-request", "the target has a character that must be percent-encoded (RFC 3986)")
    return problems.problem("bad-request", "the request is not HTTP as RFC 9112 has it")


def _words(error: BaseException | None) -> str:
    """What is wrong, without most of what came; llhttp shows that on lines of its own."""
    return str(getattr(error, "message", error)).partition("\n")[0]


def _hardened(answer: web.Response) -> web.Response:
    answer.headers.update(problems.HARDENED)
    answer.force_close()
    return answer
