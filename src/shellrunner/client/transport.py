"""What sends one HTTP request and receives its response: the seam between the client and an HTTP library.

Implemented by `aiohttp_transport` for programs with an event loop, and by `blocking_transport` for those without.
Must not know retries, or which resources there are.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from shellrunner.client.address import ServerAddress
from shellrunner.client.server_identity import ServerIdentity

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT: Final = 10.0  # seconds


class Request(NamedTuple):
    """A request to one path; `read_timeout` is how many seconds may pass without a byte of the response.

    One that is `idempotent` may be sent again at once if a connection that was kept turns out to be closed (RFC 9110,
    9.2.2 and RFC 9112, 9.3.1). A DELETE need not be: sent again, it is refused, or counts nothing.
    """

    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]
    read_timeout: float
    idempotent: bool


class Response(Protocol):
    """A response whose headers were received; neither a redirect is followed nor an encoding undone."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def reason(self) -> str | None:
        """The phrase after the status."""

    @property
    def content_length(self) -> int | None:
        """The value of that header."""

    async def read(self) -> bytes:
        """Return the whole body."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives."""


class Transport(Protocol):
    """Connections to one server, made on demand, each checked before anything is sent (see `server_identity`)."""

    @property
    def has_connected(self) -> bool:
        """Whether the server has ever accepted a connection."""

    async def open(self) -> None:
        """Begin to be used."""

    async def close(self) -> None:
        """Close all connections."""

    def send(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Send a request; the body of its response is to be read within the block.

        Raises:
            ClientError: it got no response, or the connection broke while the body was read.
        """

    def time(self) -> float:
        """Return the seconds of a monotonic clock."""

    async def sleep(self, seconds: float) -> None:
        """Wait, while other tasks run if there are any."""


class Endpoint(NamedTuple):
    """The server to which a transport leads, and how it is recognized; `headers` are sent with each request."""

    address: ServerAddress
    headers: Mapping[str, str]
    identity: ServerIdentity
    tls: "ssl.SSLContext | None" = None

    @property
    def is_https(self) -> bool:
        """Whether TLS is spoken."""
        return self.address.base.startswith("https:")

    @property
    def is_certified(self) -> bool:
        """Whether a certificate with the server's name proves who it is, whatever accepts the connection."""
        if not self.is_https:
            return False
        return self.tls is None or (self.tls.verify_mode.name == "CERT_REQUIRED" and self.tls.check_hostname)


def default_tls() -> "ssl.SSLContext":
    """Return an SSL context with the system's CA certificates, which it loads."""
    import ssl  # noqa: PLC0415  only for those who need it

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


TransportFactory: TypeAlias = Callable[[Endpoint], Transport]
