"""HTTP requests to one server, with errors translated to `ClientError` and retries of idempotent requests.

Owned by a `Client`. Must not know which resources there are.
"""

import contextlib
import errno
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, Protocol, Self

import aiohttp

from shellrunner.client.address import ServerAddress
from shellrunner.client.client_error import (
    FOREIGN,
    INTERRUPTED,
    UNREACHABLE,
    UNTRUSTED,
    ClientError,
    error_from_response,
)
from shellrunner.client.retry import Retry
from shellrunner.client.server_identity import CheckingTcpConnector, CheckingUnixConnector, ServerIdentity

READ_TIMEOUT: Final = 45.0  # seconds without a byte until a connection counts as broken; streams send one every 15 s
_CONNECT_TIMEOUT: Final = 10.0


class RetryListener(Protocol):
    """Called with the error before each retry, and with None once the server has responded again."""

    def __call__(self, error: ClientError | None, /) -> None:
        """Handle the error that is about to be retried, or None: the server has responded."""


class RetryTimes(NamedTuple):
    """For how many seconds errors are retried: `first` while the server was never reachable, `later` after that."""

    later: float
    first: float


class Transport:
    """A pool of connections to one server; it is also the `RetryPolicy` of the requests made through it."""

    def __init__(
        self,
        address: ServerAddress,
        *,
        token: str | None,
        retries: RetryTimes,
        on_retry: RetryListener | None,
        tls: ssl.SSLContext | None,
        server_user: str | int | None,
    ) -> None:
        """Make a pool for this address.

        Raises:
            ValueError: there is no user `server_user`.
        """
        self.address, self._retries = address, retries
        self._identity = ServerIdentity(address, server_user)
        self._token, self._on_retry, self._tls = token, on_retry, tls
        self._has_connected = self._is_retrying = False
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open the pool; connections are made on demand."""
        authorization = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            headers={"User-Agent": "shellrunner", **authorization},
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[self._trace_config()],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = True,
        read_timeout: float = READ_TIMEOUT,
    ) -> Any:
        """Return the JSON document of the response, None if the body is empty.

        Only an `idempotent` request is retried, because the server may have received the one whose response was lost.

        Raises:
            ClientError: the request was refused or got no response.
        """
        retry = Retry(self)
        while True:
            try:
                async with self.response(
                    method, path, body=body, headers=headers, read_timeout=read_timeout
                ) as response:
                    content = await response.read()
                    return json.loads(content) if content else None
            except ClientError as error:
                if not idempotent:
                    raise
                await retry.wait_or_raise(error)

    async def content_length(self, path: str) -> int:
        """Return the size in bytes of the resource at `path`.

        Raises:
            ClientError: as for `request`.
        """
        retry, method = Retry(self), "HEAD"
        while True:
            try:
                async with self.response(method, path) as response:
                    return response.content_length or 0
            except ClientError as error:
                if method == "HEAD" and error.kind == FOREIGN:  # HEAD has no problem document: GET gives the reason
                    method = "GET"
                else:
                    await retry.wait_or_raise(error)

    @asynccontextmanager
    async def response(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout: float = READ_TIMEOUT,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request, and yield its response, whose body is to be read within the block.

        Raises:
            ClientError: the request was refused, got no response, or the connection broke while the body was read.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=read_timeout)
        url = self.address.base + path
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status >= 400:
                    document = await _json_or_none(response)
                    raise error_from_response(response.status, response.reason or "", document, str(self.address))
                self._report_success()
                yield response
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError) as error:
            raise self._translate_error(error) from error

    @property
    def retry_for(self) -> float:
        """Seconds from the first error of a series until the last error is raised."""
        return self._retries.later if self._has_connected else max(self._retries.first, 0.0)

    def report_retry(self, error: ClientError) -> None:
        """Notify the listener that a request is about to be retried."""
        self._is_retrying = True
        if self._on_retry:
            self._on_retry(error)

    def is_retryable(self, error: ClientError) -> bool:
        """Return whether another attempt may succeed; a server that was never reachable may not be waited for."""
        is_waited_for = self._has_connected or self._retries.first > 0
        return error.is_transient and (error.kind != UNREACHABLE or is_waited_for)

    def _connector(self) -> aiohttp.BaseConnector:
        if self.address.socket:
            return CheckingUnixConnector(self._identity, path=self.address.socket)
        if self._is_certified:
            return aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls)
        return CheckingTcpConnector(self._identity, ssl=True if self._tls is None else self._tls)

    @property
    def _is_certified(self) -> bool:
        """Whether a certificate with the server's name proves who it is, whatever accepts the connection."""
        tls = self._tls
        is_verified = tls is None or (tls.verify_mode == ssl.CERT_REQUIRED and tls.check_hostname)
        return self.address.base.startswith("https:") and is_verified

    def _trace_config(self) -> aiohttp.TraceConfig:
        # aiohttp itself retries once on a connection that broke and reports only the second error, so the errors
        # alone do not show whether the server was ever reachable.
        trace_config = aiohttp.TraceConfig()
        trace_config.on_connection_create_end.append(self._mark_connected)
        return trace_config

    async def _mark_connected(self, *_: object) -> None:
        self._has_connected = True

    def _report_success(self) -> None:
        if self._is_retrying and self._on_retry:
            self._on_retry(None)
        self._is_retrying = False

    def _translate_error(self, error: Exception) -> ClientError:
        address = self.address
        match error:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
                detail = f"cannot verify the certificate of {address}: {_reason(error)}"
                return ClientError(detail, kind=UNTRUSTED)
            case aiohttp.ClientConnectorError() if error.os_error.errno == errno.ECONNRESET:
                self._has_connected = True  # the server accepted the connection, then died
            case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
                return ClientError(f"cannot reach {address}: {_reason(error)}", kind=UNREACHABLE)
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL() | ValueError():
                detail = f"the response from {address} is not shellrunner's: check the address"
                return ClientError(detail, kind=FOREIGN)
        return ClientError(f"the connection to {address} broke: {_reason(error)}", kind=INTERRUPTED)


async def _json_or_none(response: aiohttp.ClientResponse) -> object:
    with contextlib.suppress(ValueError):
        return json.loads(await response.read())
    return None


def _reason(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return str(getattr(error.certificate_error, "verify_message", error.certificate_error))
        case aiohttp.ClientConnectorError():
            return _os_reason(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return "it was closed before the response"
        case TimeoutError():
            return "no response in time"
        case OSError():
            return _os_reason(error)
    return str(error) or type(error).__name__


def _os_reason(error: OSError) -> str:
    # asyncio replaces the system's message with one of its own, so the number is the better source.
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__
