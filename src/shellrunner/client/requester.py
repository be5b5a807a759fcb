"""Requests to one server over a transport: error responses become `ClientError`, idempotent requests are retried.

Owned by a `Client`. Must not know which resources there are, or which HTTP library sends.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple, Protocol, Self

from shellrunner.client import client_error
from shellrunner.client.address import ServerAddress
from shellrunner.client.client_error import FOREIGN, UNREACHABLE, ClientError, error_from_response
from shellrunner.client.retry import Retry
from shellrunner.client.transport import Request, Response, Transport

READ_TIMEOUT: Final = 45.0  # seconds without a byte until a connection counts as broken; streams send one every 15 s


class RetryListener(Protocol):
    """Called with the error before each retry, and with None once the server has responded again."""

    def __call__(self, error: ClientError | None, /) -> None:
        """Handle the error that is about to be retried, or None: the server has responded."""


class RetryTimes(NamedTuple):
    """For how many seconds errors are retried: `first` while the server was never reachable, `later` after that."""

    later: float
    first: float


class Requester:
    """Sends the requests of one client; it is also the `RetryPolicy` of those."""

    def __init__(
        self, address: ServerAddress, transport: Transport, retries: RetryTimes, on_retry: RetryListener | None
    ) -> None:
        self.address = address
        self._transport, self._retries, self._on_retry = transport, retries, on_retry
        self._is_retrying = False
        self.time, self.sleep = transport.time, transport.sleep

    async def __aenter__(self) -> Self:
        """Open the transport; connections are made on demand."""
        await self._transport.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._transport.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = True,
        read_timeout: float = READ_TIMEOUT,
        has: str = "",
    ) -> Any:
        """Return the JSON document of the response, None if the body is empty.

        It is an object that has the keys `has`, separated by spaces. Only an `idempotent` request is retried, because
        the server may have received the one whose response was lost.

        Raises:
            ClientError: the request was refused, got no response, or one that is not shellrunner's.
        """
        retry = Retry(self)
        while True:
            try:
                async with self.response(
                    method, path, body=body, headers=headers, idempotent=idempotent, read_timeout=read_timeout
                ) as response:
                    content = await response.read()
                    document = json.loads(content) if content else None
                    client_error.check_keys(self.address, document, has)
                    return document
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
                    if response.content_length is None:
                        raise client_error.foreign(self.address, "missing: Content-Length")
                    return response.content_length
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
        idempotent: bool = True,
        read_timeout: float = READ_TIMEOUT,
    ) -> AsyncIterator[Response]:
        """Send one request, and yield its response, whose body is to be read within the block.

        Raises:
            ClientError: the request was refused, got no response, or the connection broke while the body was read.
        """
        request = Request(method, path, body, headers or {}, read_timeout, idempotent)
        try:
            async with self._transport.send(request) as response:
                if response.status >= 400:
                    document = await _json_or_none(response)
                    raise error_from_response(response.status, response.reason or "", document, str(self.address))
                self._report_success()
                yield response
        except ValueError as error:  # of the library, for a path or a header; or the body is not JSON
            raise client_error.foreign(self.address) from error

    @property
    def retry_for(self) -> float:
        """Seconds from the first error of a series until the last error is raised."""
        return self._retries.later if self._transport.has_connected else max(self._retries.first, 0.0)

    def report_retry(self, error: ClientError) -> None:
        """Notify the listener that a request is about to be retried."""
        self._is_retrying = True
        if self._on_retry:
            self._on_retry(error)

    def is_retryable(self, error: ClientError) -> bool:
        """Return whether another attempt may succeed; a server that was never reachable may not be waited for."""
        is_waited_for = self._transport.has_connected or self._retries.first > 0
        return error.is_transient and (error.kind != UNREACHABLE or is_waited_for)

    def _report_success(self) -> None:
        if self._is_retrying and self._on_retry:
            self._on_retry(None)
        self._is_retrying = False


async def _json_or_none(response: Response) -> object:
    with suppress(ValueError):
        return json.loads(await response.read())
    return None
