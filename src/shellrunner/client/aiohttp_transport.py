"""Requests over aiohttp, for programs with an event loop: many at a time, over a pool of connections.

Must not know retries, or which resources there are.
"""

import asyncio
import errno
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from shellrunner.client import client_error
from shellrunner.client.client_error import ClientError
from shellrunner.client.server_identity import ServerIdentity
from shellrunner.client.transport import CONNECT_TIMEOUT, Endpoint, Request, Response, default_tls

_DEFAULT_ACCEPT_TIMEOUT: Final = 45.0  # seconds


class AiohttpTransport:
    """A pool of connections of an aiohttp session."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.has_connected = False
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession

    async def open(self) -> None:
        """Open the pool."""
        tls: ssl.SSLContext | bool = self._endpoint.tls or True
        if tls is True and self._endpoint.is_https:
            # Not aiohttp's default context, which has no CA certificates in our own programs (`aiohttp_import`).
            tls = await asyncio.to_thread(default_tls)
        self._session = aiohttp.ClientSession(
            connector=self._connector(tls),
            headers=self._endpoint.headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[self._trace_config()],
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        """Send a request; see `Transport`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=request.read_timeout)
        try:
            async with self._session.request(
                request.method,
                self._endpoint.address.base + request.path,
                data=request.body,
                headers=request.headers,
                timeout=timeout,
                allow_redirects=False,
                middlewares=() if request.idempotent else (self._send_once,),
            ) as response:
                yield _AiohttpResponse(response)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise self._translate_error(error) from error

    async def _send_once(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send a request whose errors are not aiohttp's, which would send a DELETE again."""
        try:
            return await send(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise self._translate_error(error) from error

    def time(self) -> float:
        """Return the event loop's time."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait while other tasks run."""
        await asyncio.sleep(seconds)

    def _connector(self, tls: ssl.SSLContext | bool) -> aiohttp.BaseConnector:
        if path := self._endpoint.address.socket:
            return _CheckingUnixConnector(self._endpoint.identity, path=path)
        if self._endpoint.is_certified:
            return aiohttp.TCPConnector(ssl=tls)
        return _CheckingTcpConnector(self._endpoint.identity, ssl=tls)

    def _trace_config(self) -> aiohttp.TraceConfig:
        # aiohttp itself retries once on a connection that broke and reports only the second error, so the errors
        # alone do not show whether the server was ever reachable.
        trace_config = aiohttp.TraceConfig()
        trace_config.on_connection_create_end.append(self._mark_connected)
        return trace_config

    async def _mark_connected(self, *_: object) -> None:
        self.has_connected = True

    def _translate_error(self, error: Exception) -> ClientError:
        address = self._endpoint.address
        match error:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
                return client_error.untrusted(address, _reason(error))
            case aiohttp.ClientConnectorError() if error.os_error.errno == errno.ECONNRESET:
                self.has_connected = True  # the server accepted the connection, then died
            case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
                return client_error.unreachable(address, _reason(error))
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
                return client_error.foreign(address)
        return client_error.interrupted(address, _reason(error))


class _AiohttpResponse:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status, self.reason, self.content_length = response.status, response.reason, response.content_length
        self.read = response.read
        self.chunks = response.content.iter_any


class _CheckingConnector(aiohttp.BaseConnector):
    """A pool whose connections are checked before their first use."""

    def __init__(self, identity: ServerIdentity, **options: Any) -> None:
        super().__init__(**options)
        self._identity = identity
        self._checked: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:  # noqa: ASYNC109  as its base
        """Return a connection for one request, new or from the pool, that leads to the server."""
        connection = await super().connect(req, traces, timeout)
        try:
            await self._check(connection.protocol, connection.transport, timeout.sock_read)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _check(self, protocol: object, transport: asyncio.Transport | None, read_timeout: float | None) -> None:
        if protocol in self._checked:  # only root can change the owner of a socket that is open
            return
        if transport is None:
            raise aiohttp.ServerDisconnectedError
        accept_timeout = read_timeout or _DEFAULT_ACCEPT_TIMEOUT
        await self._identity.check(transport.get_extra_info("socket"), accept_timeout, asyncio.sleep)
        self._checked.add(protocol)


class _CheckingTcpConnector(_CheckingConnector, aiohttp.TCPConnector):
    """A pool of TCP connections."""


class _CheckingUnixConnector(_CheckingConnector, aiohttp.UnixConnector):
    """A pool of connections to a Unix socket."""


def _reason(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return str(getattr(error.certificate_error, "verify_message", error.certificate_error))
        case aiohttp.ServerDisconnectedError():
            return client_error.CLOSED
        case TimeoutError():
            return client_error.SILENT
        case aiohttp.ClientPayloadError():
            return client_error.CUT_OFF
    return client_error.os_reason(getattr(error, "os_error", error))
