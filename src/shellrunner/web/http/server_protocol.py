"""The protocol of a connection: deadlines for slow clients, and our own problems for what never reaches a handler.

A client may close its sending side behind its requests, as `nc -N` does: what it sent whole is answered, then the
connection is closed. Over a network a client that has gone looks the same until something is sent to it, so a handler
that waits is notified (`on_disconnect`), and must not wait for long.
`Runner` stands in for `web.AppRunner`. Must not know any resource.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, cast

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import RawHeaders

from shellrunner import ascii_text
from shellrunner.peer_credentials import ConnectionPeer
from shellrunner.web.http import aiohttp_internals, problems
from shellrunner.web.http.aiohttp_internals import (
    EMPTY_PAYLOAD,
    LineTooLong,
    ProtocolRunner,
    ProtocolServer,
    RequestCallback,
    StreamReader,
    WatchedProtocol,
)
from shellrunner.web.http.connections import CONNECTIONS, ClientConnection, Connections
from shellrunner.web.http.request_line import NO_REQUEST_LINE, RequestLines
from shellrunner.web.http.revocation import ConnectionIdentity

log = logging.getLogger("shellrunner.web")

MAX_PIPELINED: Final = 8  # requests of one connection that are read ahead while one is answered
_RECHECK_DELAY: Final = 0.1  # seconds

# The part of a parser's error that comes before what the client sent, which may be a token or part of a body.
_UNQUOTED = re.compile(r"[^:'\"]*")


class PassedHeaders(NamedTuple):
    """The headers of a connection's last request, once they have passed the security middleware's checks of headers.

    is_forwarded: whether one of them is the mark of a proxy.
    """

    raw: RawHeaders
    is_forwarded: bool


class _ClientProtocol(WatchedProtocol):
    """The protocol of one client: aiohttp's, with deadlines (`connections`) and our own problems."""

    __slots__ = (
        "_body",
        "_connection",
        "_connections",
        "_is_refused",
        "_lines",
        "on_disconnect",
        "on_doubt",
        "owner",
        "passed_headers",
    )

    def __init__(self, connection: ClientConnection, server: "_Server", **options: Any) -> None:
        super().__init__(server, **options)
        self.on_disconnect: Callable[[], None] | None = None
        self.on_doubt: Callable[[], None] | None = None
        self.owner = ConnectionIdentity(self._end_revoked)
        self.passed_headers: PassedHeaders | None = None
        self._connections = server.open_connections
        self._connection = connection
        self._body: StreamReader = EMPTY_PAYLOAD  # of the request that is being read
        self._lines = RequestLines()
        self._is_refused = False  # since a line that is not a request line of HTTP, nothing is read
        connection.is_idle = lambda: self.is_idle

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._connections.close(self._connection)
        self.owner.release()
        if self.on_disconnect is not None:
            self.on_disconnect()

    def _end_revoked(self) -> None:
        self._connections.cut["revoked"] += 1
        if self.is_idle:  # else `finish_response` does
            self._connection.transport.close()

    @property
    def peer(self) -> ConnectionPeer:
        """The process at the other end."""
        return self._connection.peer

    @property
    def doubtful_since(self) -> float | None:
        """See `ClientConnection`."""
        return self._connection.doubtful_since

    def authenticated(self, identity: str) -> None:
        """See `Connections`."""
        self._connections.authenticated(self._connection, identity)

    def rejected(self) -> None:
        """See `Connections`."""
        self._connections.rejected(self._connection)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's returns nothing, and so closes at once
        """Keep the connection for what is still to be answered; called again if reading was paused meanwhile."""
        if self._connection.is_half_closed:
            return True
        if self.is_idle or not self._connection.half_close():
            return False
        # A client that is closing its socket sends its end a moment before its end of the connection has no owner.
        asyncio.get_running_loop().call_later(_RECHECK_DELAY, self._recheck)
        self._fail_unfinished_body()
        if self.on_doubt is not None and self.doubtful_since is not None:
            self.on_doubt()
        return True

    def _recheck(self) -> None:
        if self.connected:
            self._connections.end_half_closed(self._connection)

    def _fail_unfinished_body(self) -> None:
        if not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError("the client closed its side before the end of the body"))

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        refused_at = self._lines.first_refused(data)
        self._parse(data[:refused_at])
        if refused_at is not None:
            self._is_refused = True
            text = "invalid HTTP request: its first line is not one of HTTP/1.0 or HTTP/1.1"
            log.debug(text, extra={"repeats": "invalid HTTP request"})
            self._parse(NO_REQUEST_LINE)  # by itself, since an error hides the requests that are parsed with it

    def _parse(self, data: bytes) -> None:
        before, in_body = self.request_count, not self._body.is_eof()
        super().data_received(data)
        if self.request_count > before:
            self._body = self.last_body
            self._connection.head_completed()
        elif data and not in_body:
            received = self._connection.head_received(len(data))
            if received > self._connections.limits.max_head_bytes:
                self._connections.drop(self._connection, "large-head")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connection.bytes_taken()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone: not an error, and nobody to send it to
        aiohttp_internals.override_version(request, HttpVersion11)  # else that of what could not be parsed
        if status >= 500:
            return _final(problems.internal_error(exc or RuntimeError(message)))
        response = problems.from_error(problems.wrong_protocol()) if self._is_refused else _from_parser_error(exc)
        detail = "not a request line of HTTP" if self._is_refused else _unquoted(exc)
        self._connections.report_refusal(self.transport, response[problems.PROBLEM_CODE], detail)
        return _final(response)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        # The rest of a body that cannot be read: the client has its response already, which did not need it.
        # Or aiohttp's own future, if its shutdown stopped waiting for a handler in the turn that ended it.
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError | asyncio.InvalidStateError):
            super().log_exception(*args, **kw)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # raised before the middleware: an unknown `Expect`
            resp = _final(problems.from_http_exception(resp, request))
            self._connections.report_refusal(self.transport, resp[problems.PROBLEM_CODE])
        if resp.status >= 400 and (code := resp.get(problems.PROBLEM_CODE)):
            self._connections.problems[code] += 1
        finished = await super().finish_response(request, resp, start_time)
        self._connection.answered(is_last=not self.has_queued)
        if self.owner.is_revoked:
            self.close()
        elif self._connection.is_half_closed:
            self._close_unless_queued()
        return finished

    def _close_unless_queued(self) -> None:
        if self.has_queued:
            self._body = self.last_body  # aiohttp parses what followed a declined upgrade only after its response
            self._fail_unfinished_body()
        else:
            self.close()


class _AcceptedConnection(asyncio.Protocol):
    """Stands in for the protocol until the TLS handshake is done.

    If the handshake fails, asyncio calls nobody; `tls_protocol` calls `tcp_connected` and `tcp_lost`.
    """

    def __init__(self, server: "_Server") -> None:
        self._server, self._connections = server, server.open_connections
        self._connection: ClientConnection | None = None

    def tcp_connected(self, transport: asyncio.Transport) -> None:
        """Count the connection before its handshake."""
        self._connection = self._connections.accept(transport)

    def tcp_lost(self) -> None:
        """Forget the connection if its handshake did not succeed."""
        if self._connection is not None:
            self._connections.close(self._connection)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        connection = self._connection or self._connections.accept(transport)
        if connection is not None:
            connection.transport = transport
            self._server.begin(connection)


class _Server(ProtocolServer):
    """Makes the protocol of each accepted connection, within the limits."""

    open_connections: Connections

    def __call__(self) -> Any:  # not the RequestHandler yet
        return _AcceptedConnection(self)

    def begin(self, connection: ClientConnection) -> None:
        """Have aiohttp serve the connection."""
        protocol = self.make_protocol(partial(_ClientProtocol, connection))
        connection.transport.set_protocol(protocol)
        protocol.connection_made(connection.transport)


class Runner(ProtocolRunner):
    """Runs the app so that every response is one of ours, and slow clients are dropped."""

    def replace_server(self, server: web.Server) -> web.Server:
        """Return a server with our protocol; also limit pipelining, in the whole process."""
        aiohttp_internals.limit_pipelining(MAX_PIPELINED)
        ours = aiohttp_internals.copy_server(server, _Server, _check_expect(server.request_handler))
        ours.open_connections = self.app[CONNECTIONS]
        return ours


def _check_expect(callback: RequestCallback) -> RequestCallback:
    def checked(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        # aiohttp (3.14.5) rejects this too, but fails while it quotes what is not UTF-8.
        if ascii_text.lower(request.headers.get(hdrs.EXPECT, "")) not in {"", "100-continue"}:
            raise web.HTTPExpectationFailed
        return callback(request)

    return checked


@contextmanager
def on_disconnect(
    request: web.Request, callback: Callable[[], None], on_doubt: Callable[[], None] | None = None
) -> Iterator[None]:
    """Call `callback` if the client disconnects while the block runs, and `on_doubt` once it may have gone.

    Raises:
        ConnectionError: it has disconnected already.
    """
    if request.transport is None:
        raise ConnectionResetError("the client has disconnected")
    protocol = request.protocol
    if isinstance(protocol, _ClientProtocol):
        protocol.on_disconnect, protocol.on_doubt = callback, on_doubt
    if on_doubt is not None and doubtful_since(request) is not None:
        on_doubt()
    try:
        yield
    finally:
        if isinstance(protocol, _ClientProtocol):
            protocol.on_disconnect = protocol.on_doubt = None


def connection_identity(request: web.Request) -> ConnectionIdentity:
    """Return what knows whose the request's connection is."""
    protocol = request.protocol
    return protocol.owner if isinstance(protocol, _ClientProtocol) else ConnectionIdentity(lambda: None)


def passed_headers(request: web.Request) -> PassedHeaders | None:
    """Return what is known of the request's headers, if those of the last request on its connection were the same."""
    protocol = request.protocol
    passed = protocol.passed_headers if isinstance(protocol, _ClientProtocol) else None
    return passed if passed is not None and passed.raw == request.raw_headers else None


def remember_headers(request: web.Request, passed: PassedHeaders) -> None:
    """Remember what is known of the request's headers for the next request on its connection."""
    if isinstance(request.protocol, _ClientProtocol):
        request.protocol.passed_headers = passed


def connection_peer(request: web.Request) -> ConnectionPeer | None:
    """Return the process at the other end of the request's connection; None if that has ended."""
    if request.transport is None:
        return None
    protocol = request.protocol
    if isinstance(protocol, _ClientProtocol):
        return protocol.peer
    connection = request.transport.get_extra_info("socket")
    return None if connection is None else ConnectionPeer(connection)


def note_identity(request: web.Request, identity: str | None) -> None:
    """Note who has sent the request, for the limits of its connection; None: nobody who could be authenticated."""
    protocol = request.protocol
    if isinstance(protocol, _ClientProtocol):
        if identity is None:
            protocol.rejected()
        else:
            protocol.authenticated(identity)


def doubtful_since(request: web.Request) -> float | None:
    """Return since when, by the loop's clock, the client may have gone (see `ClientConnection`), or None."""
    protocol = request.protocol
    return protocol.doubtful_since if isinstance(protocol, _ClientProtocol) else None


def _from_parser_error(error: BaseException | None) -> web.Response:
    message = _first_line(error)
    if "'Host' header" in message:  # missing or doubled
        return problems.from_error(problems.wrong_host())
    if isinstance(error, LineTooLong) or "Too many headers" in message:
        return problems.problem(
            "headers-too-large", "the request line or a header is too long, or there are too many headers"
        )
    log.debug("invalid HTTP request: %s", _unquoted(error), extra={"repeats": "invalid HTTP request"})
    if message.startswith("Invalid char in url"):
        return problems.problem(
            "bad-request", "the request target contains a character that must be percent-encoded (RFC 3986)"
        )
    return problems.problem("bad-request", "the request is not valid HTTP (RFC 9112)")


def _unquoted(error: BaseException | None) -> str:
    unquoted = _UNQUOTED.match(_first_line(error))
    return (ascii_text.strip_blanks(unquoted[0]) if unquoted else "") or type(error).__name__


def _first_line(error: BaseException | None) -> str:
    """Return the error's message without most of what the client sent, which llhttp quotes on lines of its own."""
    return str(getattr(error, "message", error)).partition("\n")[0]


def _final(response: web.Response) -> web.Response:
    """Add the security headers, since the middleware was not reached, and close the connection afterwards."""
    response.headers.update(problems.SECURITY_HEADERS)
    response.force_close()
    return response
