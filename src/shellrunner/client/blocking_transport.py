"""Requests over `http.client`, for programs without an event loop, over persistent connections.

The methods of a `Client` are coroutines. Over this transport none of them ever suspends: where one would wait, a
system call blocks. So `run` executes them without an event loop, and without importing asyncio and aiohttp, which
takes longer than all the rest of such a program. Must not know retries, or which resources there are.
"""

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from io import BufferedReader
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from shellrunner import ascii_text
from shellrunner.client import client_error
from shellrunner.client.client_error import ClientError
from shellrunner.client.transport import CONNECT_TIMEOUT, Endpoint, Request, Response, default_tls

T = TypeVar("T")

_IDLE_INTERVAL: Final = 0.25  # seconds between two calls of `on_idle`
_READ_SIZE: Final = 1 << 18
_SEND_SIZE: Final = 1 << 16  # the time limit of a send applies to so many bytes
_HTTP_PORT, _HTTPS_PORT = 80, 443
_FIRST_FINAL_STATUS: Final = 200
_BACKLOG_DELAY: Final = 0.01  # seconds
_UNQUOTED: Final = "!#$%&'()*+,/:;=?@[]~"


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Execute a coroutine that uses a client over a `BlockingTransport`, and return its result.

    Raises:
        RuntimeError: it waits for something that requires an event loop.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("this coroutine requires an event loop")


class BlockingTransport:
    """One connection, and more while requests are made during others: while a stream is read, or in threads.

    `on_idle` is called several times per second while a response or a retry is waited for.
    """

    def __init__(self, endpoint: Endpoint, on_idle: Callable[[], None] = lambda: None) -> None:
        self.has_connected = False
        self._endpoint, self._on_idle = endpoint, on_idle
        parts = urlsplit(endpoint.address.base)
        self._base_path = parts.path
        self._host = parts.hostname or ""
        self._default_port = _HTTPS_PORT if endpoint.is_https else _HTTP_PORT
        self._port = parts.port or self._default_port
        self._idle: deque[HTTPConnection] = deque()  # its operations are atomic, for clients that threads share

    async def open(self) -> None:
        """Do nothing: the connection is made on demand."""

    async def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().close()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        """Send a request; see `Transport`."""
        try:
            connection, response = await self._exchange(request)
            is_read = False
            try:
                yield _BlockingResponse(response)
                is_read = response.isclosed()
            finally:
                if is_read:
                    self._idle.append(connection)
                else:
                    response.close()  # which has the socket to itself if the server closes the connection
                    connection.close()
        except (OSError, HTTPException) as error:
            raise self._translate_error(error) from error

    def time(self) -> float:
        """Return the monotonic time."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (rest := deadline - time.monotonic()) > 0:
            time.sleep(min(rest, _IDLE_INTERVAL))
            self._on_idle()

    async def _exchange(self, request: Request) -> tuple[HTTPConnection, HTTPResponse]:
        kept = self._take_idle()
        if kept is not None:
            try:
                return kept, self._converse(kept, request)
            except ConnectionError:
                if not request.idempotent:
                    raise
        connection = await self._connect(request.read_timeout)
        return connection, self._converse(connection, request)

    def _take_idle(self) -> HTTPConnection | None:
        """Return a connection of an earlier request that the server has not closed, if there is one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.sock is not None and not _is_readable(connection.sock, 0):
                return connection
            connection.close()

    def _converse(self, connection: HTTPConnection, request: Request) -> HTTPResponse:
        """Send a request and return its response; close the connection if that fails."""
        try:
            return self._request(connection, request)
        except BaseException:
            connection.close()
            raise

    def _request(self, connection: HTTPConnection, request: Request) -> HTTPResponse:
        connection.sock.settimeout(request.read_timeout)
        path = quote(self._base_path + request.path, safe=_UNQUOTED)
        headers = {**self._endpoint.headers, **request.headers}
        # The server may have refused the request before it has read all of it, and closed the connection.
        with contextlib.suppress(BrokenPipeError):
            if request.body is None:
                connection.request(request.method, path, headers=headers)
            else:
                headers["Content-Length"] = str(len(request.body))
                connection.request(request.method, path, body=_slices(request.body), headers=headers)
        self._wait_readable(connection.sock, request.read_timeout)
        response = connection.getresponse()
        if response.status < _FIRST_FINAL_STATUS:  # http.client skips 100 only
            raise HTTPException(f"interim response: {response.status}")
        return response

    def _wait_readable(self, connection: socket.socket, read_timeout: float) -> None:
        deadline = time.monotonic() + read_timeout
        while not _is_readable(connection, _IDLE_INTERVAL):
            self._on_idle()
            if time.monotonic() >= deadline:
                raise TimeoutError

    async def _connect(self, read_timeout: float) -> HTTPConnection:
        """Return a new connection, which leads to the server."""
        made = self._open_socket()
        try:
            self.has_connected = True
            if not self._endpoint.is_certified:
                await self._endpoint.identity.check(made, read_timeout, self.sleep)
            if self._endpoint.is_https:
                made = self._start_tls(made)
        except BaseException:
            made.close()
            raise
        connection = HTTPConnection(self._host, self._port)
        connection.default_port = (
            _HTTPS_PORT if self._endpoint.is_https else _HTTP_PORT
        )  # which the Host header leaves out
        connection.auto_open = 0  # a connection that has not been checked is never made
        connection.response_class = _WholeResponse
        connection.sock = made
        return connection

    def _open_socket(self) -> socket.socket:
        try:
            if path := self._endpoint.address.socket:
                return _connect_unix(path)
            # As bytes, because a name as text is encoded by a codec that takes 5 ms to import.
            host: Any = self._host.encode() if self._host.isascii() else self._host
            made = socket.create_connection((host, self._port), CONNECT_TIMEOUT)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except ConnectionResetError:
            self.has_connected = True  # the server accepted the connection, then died
            raise
        except TimeoutError:
            raise client_error.unreachable(self._endpoint.address, client_error.SILENT) from None
        except (OSError, UnicodeError) as error:
            raise client_error.unreachable(self._endpoint.address, client_error.os_reason(error)) from error
        return made

    def _start_tls(self, connection: socket.socket) -> socket.socket:
        import ssl  # noqa: PLC0415  only for those who need it

        context = self._endpoint.tls or default_tls()
        try:
            return context.wrap_socket(connection, server_hostname=self._host)
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", None) or client_error.os_reason(error)
            raise client_error.untrusted(self._endpoint.address, reason) from error

    def _translate_error(self, error: Exception) -> ClientError:
        address = self._endpoint.address
        match error:
            case RemoteDisconnected():
                return client_error.interrupted(address, client_error.CLOSED)
            case TimeoutError():
                return client_error.interrupted(address, client_error.SILENT)
            case IncompleteRead():
                return client_error.interrupted(address, client_error.CUT_OFF)
            case OSError():
                return client_error.interrupted(address, client_error.os_reason(error))
        return client_error.foreign(address)


class _WholeResponse(HTTPResponse):
    """A response whose head is whole: to http.client, a connection that closes within the head ends the head."""

    fp: BufferedReader

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fp = _LineReader(self.fp.detach())

    def begin(self) -> None:
        """Read the head."""
        try:
            super().begin()
        except IncompleteRead as error:
            raise RemoteDisconnected(client_error.CLOSED) from error


class _LineReader(BufferedReader):
    """Reads lines that have an end, for http.client reads what comes before the end of a file as a line."""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line, or the first `size` bytes of a longer one."""
        line = super().readline(size)
        if len(line) != size and not line.endswith(b"\n"):
            raise IncompleteRead(line)
        return line


class _BlockingResponse:
    def __init__(self, response: HTTPResponse) -> None:
        self.status, self.reason, self._response = response.status, response.reason, response

    @property
    def content_length(self) -> int | None:
        length = self._response.getheader("Content-Length", "")
        return int(length) if ascii_text.is_decimal(length) else None

    async def read(self) -> bytes:
        return self._response.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        while data := self._response.read1(_READ_SIZE):
            yield data
        if self._response.length:  # what `read` checks and `read1` does not: bytes that were announced are missing
            raise IncompleteRead(b"", self._response.length)


def _slices(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _SEND_SIZE):
        yield body[start : start + _SEND_SIZE]


def _is_readable(connection: socket.socket, timeout: float) -> bool:
    pending = getattr(connection, "pending", None)  # of a TLS connection: bytes that were decrypted already
    if pending and pending():
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _connect_unix(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deadline = time.monotonic() + CONNECT_TIMEOUT
    try:
        made.settimeout(CONNECT_TIMEOUT)
        while True:
            try:
                made.connect(path)
            except BlockingIOError:  # unix(7): its queue of connections is full, which a time limit does not cover
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                time.sleep(_BACKLOG_DELAY)
            else:
                return made
    except BaseException:
        made.close()
        raise
