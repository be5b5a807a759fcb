"""Everything that the service uses of aiohttp beyond its documented interface, under public names.

Used by `server_protocol` and the security middleware. For each attribute test_aiohttp_internals.py says what breaks
without it, and pyproject.toml allows only the minor release of aiohttp that was tested.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

from aiohttp import HttpVersion, http_exceptions, web, web_protocol
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

__all__ = ["EMPTY_PAYLOAD", "LineTooLong", "ProtocolRunner", "ProtocolServer", "StreamReader", "WatchedProtocol"]

LineTooLong = http_exceptions.LineTooLong

RequestCallback = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
P_co = TypeVar("P_co", bound="WatchedProtocol", covariant=True)


def limit_pipelining(max_requests: int) -> None:
    """Let each connection read ahead at most so many requests while one is answered, in the whole process.

    aiohttp has no option for it. Its 32, with 64 KiB of headers each, are 2 MiB for a client that never reads.
    """
    web_protocol.MAX_MSG_QUEUE_SIZE = max_requests


def override_version(request: web.BaseRequest, version: HttpVersion) -> None:
    """Have the response's status line claim this version of HTTP instead of the request's."""
    request._cache["version"] = version  # noqa: SLF001


async def write_now(request: web.Request, data: bytes | memoryview) -> None:
    """Write a piece of the response's body without waiting for the client, however much is waiting for it already.

    Never suspends. `StreamResponse.write` would wait once 64 KiB were written, and so hold back who writes to many.

    Raises:
        ConnectionError: the client has disconnected.
    """
    await cast("StreamWriter", request.writer).write(data, drain=False)


def limit_body(request: web.BaseRequest, max_bytes: int) -> None:
    """Have this request take another number of bytes than the application's `client_max_size`."""
    request._client_max_size = max_bytes  # noqa: SLF001


class WatchedProtocol(RequestHandler):
    """aiohttp's protocol of one connection, with what must be known of its progress.

    Subclasses also override `handle_error`, `log_exception` and `finish_response`, which aiohttp does not document.
    """

    __slots__ = ()

    @property
    def request_count(self) -> int:
        """How many heads were parsed since the connection was made."""
        return self._request_count

    @property
    def last_body(self) -> StreamReader:
        """The body that belongs to the head that was parsed last; only right after `request_count` has grown."""
        return self._messages[-1][1]

    @property
    def has_queued(self) -> bool:
        """Whether requests wait for the one before them to be answered."""
        return bool(self._messages)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered or waits to be."""
        return self._waiter is not None and not self._waiter.done()


class ProtocolFactory(Protocol[P_co]):
    """Makes the protocol of a connection, with the options that aiohttp has for it."""

    def __call__(self, server: web.Server, **options: Any) -> P_co:
        """Make it."""


class ProtocolServer(web.Server):
    """aiohttp's low-level server, but with a choice of protocol."""

    def make_protocol(self, factory: ProtocolFactory[P_co]) -> P_co:
        """Make the protocol of a connection."""
        return factory(self, loop=self._loop, **self._kwargs)


S = TypeVar("S", bound=ProtocolServer)


class ProtocolRunner(web.AppRunner):
    """aiohttp's runner, but with a choice of server."""

    async def _make_server(self) -> web.Server:
        return self.replace_server(await super()._make_server())

    def replace_server(self, server: web.Server) -> web.Server:
        """Return the server that runs in place of aiohttp's; see `copy_server`."""
        return server


def copy_server(server: web.Server, kind: type[S], callback: RequestCallback) -> S:
    """Make a server of another kind, with the same options, that answers requests by `callback`."""
    options = server._kwargs  # noqa: SLF001
    return kind(callback, request_factory=server.request_factory, loop=server._loop, **options)  # noqa: SLF001
