"""Open connections and their deadlines: slow clients are dropped, connections over the limit are not opened.

`Connections` belongs to the app and is called by the protocol of each connection. Must not know requests.
"""

import asyncio
import fcntl
import logging
import math
import select
import socket
import struct
import termios
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from aiohttp import web

from shellrunner.peer_credentials import peer_has_left

log = logging.getLogger("shellrunner.web")

_MAX_EXTRA: Final = 8  # connections over the limit that wait to be closed
_LOG_INTERVAL: Final = 60.0  # seconds between two lines
REASONS: Final = ("one-too-many", "slow-head", "large-head", "not-reading", "revoked")
# Those that refuse what the client asks for. Browsers open connections that they may never use, or stop reading.
_REFUSALS: Final = frozenset({"one-too-many", "large-head"})


class ReportRefusal(Protocol):
    """Reports that a connection, or what came over it, was refused before there was a request."""

    def __call__(self, transport: asyncio.BaseTransport | None, code: str, detail: str = "") -> None:
        """Report it; neither `code` nor `detail` has anything that the client sent."""


def _unreported(transport: asyncio.BaseTransport | None, code: str, detail: str = "") -> None:
    pass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a client may cost; times are in seconds."""

    max_connections: int = 1000
    head_timeout: float = 10.0  # from the start of a connection, or a request's first byte, to the end of its head
    max_head_bytes: int = 1 << 16  # of an unfinished head; a whole one is measured by the parser and the middleware
    send_timeout: float = 60.0  # within which a client must take some of the bytes that are waiting for it

    @property
    def check_interval(self) -> float:
        """The time between two checks, by which a client may be dropped too late."""
        return min(self.head_timeout, self.send_timeout) / 4


class ClientConnection:
    """The deadlines of one connection."""

    __slots__ = (
        "_clock",
        "_doubtful_since",
        "_head_bytes",
        "_head_since",
        "_taken_at",
        "_unsent",
        "is_half_closed",
        "is_idle",
        "transport",
    )

    def __init__(self, transport: asyncio.Transport, clock: Callable[[], float]) -> None:
        """Expect a head from now on, so that a connection that never sends anything is too slow too."""
        self.transport = transport
        self.is_idle: Callable[[], bool] = lambda: False  # whether it waits for a request; set by the protocol
        self._clock = clock
        self._head_since: float | None = clock()
        self._head_bytes = 0
        self._taken_at = clock()
        self._unsent: float = 0
        self.is_half_closed = False  # the client has shut down its sending side
        self._doubtful_since: float | None = None

    @property
    def doubtful_since(self) -> float | None:
        """Since when the client may be gone: over a network one that closed everything looks like one that reads.

        That is so until something is sent to it, which it then resets. Over loopback and Unix sockets the kernel
        knows.
        """
        return self._doubtful_since

    def half_close(self) -> bool:
        """Note that the client has shut down its sending side; return false if it has gone, as far as is known."""
        self.is_half_closed = True
        connection = self.transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX and peer_has_left(connection) is None:
            self._doubtful_since = self._clock()
        return not self.has_gone()

    def has_gone(self) -> bool:
        """Return whether the client receives nothing any more, as far as that is known here.

        After a half-close asyncio no longer watches the socket for reading, so nothing else notices.
        """
        connection = self.transport.get_extra_info("socket")
        if (fd := connection.fileno()) < 0:
            return True
        poller = select.poll()
        poller.register(fd, 0)  # for what is always reported: POLLHUP and POLLERR (poll(2))
        return bool(poller.poll(0)) or (connection.family != socket.AF_UNIX and peer_has_left(connection) is True)

    def head_received(self, size: int) -> int:
        """Count `size` bytes of an unfinished head; return how many there are by now."""
        if self._head_since is None:
            self._head_since = self._clock()
        self._head_bytes += size
        return self._head_bytes

    def head_completed(self) -> None:
        """Note that a whole head has arrived."""
        self._head_since, self._head_bytes = None, 0

    def bytes_taken(self) -> None:
        """Note that the client took something, although more may be waiting by now than at the last check."""
        self._unsent = math.inf

    def drop_reason(self, limits: ConnectionLimits) -> str | None:
        """Return why the connection must be dropped, or None."""
        now, unsent = self._clock(), _unsent_bytes(self.transport)
        if unsent == 0 or unsent < self._unsent:
            self._taken_at = now
        self._unsent = unsent
        if now - self._taken_at >= limits.send_timeout:
            return "not-reading"
        # While a request is being answered, an unfinished head behind it costs no more than the connection does
        # anyway, and it may be unfinished only because we have stopped reading.
        if self._head_since is not None and now - self._head_since >= limits.head_timeout and self.is_idle():
            return "slow-head"
        return None


def _unsent_bytes(transport: asyncio.Transport) -> int:
    """Count the bytes that the client has not taken, in our buffer and the kernel's (tcp(7), unix(7), "SIOCOUTQ").

    Our buffer alone is not enough: the kernel accepts more only after a third of megabytes was taken.
    """
    fd = transport.get_extra_info("socket").fileno()
    (in_kernel,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))) if fd >= 0 else (0,)
    return transport.get_write_buffer_size() + int(in_kernel)


class Connections:
    """All connections of an app, over whatever listener they came."""

    def __init__(
        self, limits: ConnectionLimits, problems: Iterable[str] = (), report_refusal: ReportRefusal = _unreported
    ) -> None:
        """Start without any. `problems` are the codes that the protocol counts in `Connections.problems`."""
        self.limits, self.report_refusal = limits, report_refusal
        self.problems: Counter[str] = Counter(dict.fromkeys(problems, 0))
        self.cut: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._logged: Counter[str] = Counter()
        self._next_log_at = 0.0
        self._open: set[ClientConnection] = set()
        self._pending: WeakKeyDictionary[asyncio.Protocol, float] = WeakKeyDictionary()  # accepted when
        self._is_checking = False

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._open)

    def add_pending(self, pending: asyncio.Protocol) -> None:
        """Count an accepted connection whose TLS handshake may still follow.

        If the handshake never completes, asyncio drops `pending` without calling it, and the weak reference ends.

        Raises:
            ConnectionRefusedError: too many are pending; asyncio then closes the socket.
        """
        now = asyncio.get_running_loop().time()
        if self._is_full():
            # Before Python 3.11.8 asyncio drops them only when garbage is collected.
            for each in [each for each, since in self._pending.items() if now - since >= self.limits.head_timeout]:
                del self._pending[each]
        if self._is_full():
            self.cut["one-too-many"] += 1
            raise ConnectionRefusedError("too many connections")
        self._pending[pending] = now

    def _is_full(self) -> bool:
        # A few more are let in, because only an open connection can be closed in order (`open`).
        total = len(self._pending) + len(self._open)
        return len(self._pending) >= self.limits.max_connections or total >= self.limits.max_connections + _MAX_EXTRA

    def open(self, pending: asyncio.Protocol, transport: asyncio.Transport) -> ClientConnection | None:
        """Open a pending connection; return None if it exceeds the limit and was dropped."""
        self._pending.pop(pending, None)
        loop = asyncio.get_running_loop()
        connection = ClientConnection(transport, loop.time)
        if len(self._open) >= self.limits.max_connections:
            self.drop(connection, "one-too-many")
            return None
        self._open.add(connection)
        if not self._is_checking:
            self._is_checking = True
            loop.call_later(self.limits.check_interval, self._check)
        return connection

    def close(self, connection: ClientConnection) -> None:
        """Forget a connection that has ended."""
        self._open.discard(connection)

    def drop(self, connection: ClientConnection, reason: str) -> None:
        """Abort a connection, even one that is closing already but whose last bytes the client does not take."""
        self.cut[reason] += 1
        if reason in _REFUSALS:
            self.report_refusal(connection.transport, reason)
        connection.transport.abort()

    def end_half_closed(self, connection: ClientConnection) -> bool:
        """End a half-closed connection whose client has gone, or has all its answers; return whether it was."""
        if connection.has_gone():
            connection.transport.abort()
        elif connection.is_idle():
            connection.transport.close()
        else:
            return False
        return True

    def _check(self) -> None:
        for connection in tuple(self._open):
            if connection.is_half_closed and self.end_half_closed(connection):
                continue
            if (reason := connection.drop_reason(self.limits)) is not None:
                self.drop(connection, reason)
        self._log_drops()
        self._is_checking = bool(self._open)
        if self._is_checking:
            asyncio.get_running_loop().call_later(self.limits.check_interval, self._check)

    def _log_drops(self) -> None:
        # One line for all of them: a client that opens thousands must not fill the log as well.
        now = asyncio.get_running_loop().time()
        if now >= self._next_log_at and (fresh := self.cut - self._logged):
            counts: dict[str, Any] = {reason.replace("-", "_"): number for reason, number in fresh.items()}
            # Browsers open connections that they may never use; reaching the limit is the operator's concern.
            level = logging.WARNING if "one-too-many" in fresh else logging.DEBUG
            limit = {"open": len(self._open), "max_connections": self.limits.max_connections}
            log.log(level, "connections dropped", extra={**counts, **limit})
            self._logged, self._next_log_at = self.cut.copy(), now + _LOG_INTERVAL


CONNECTIONS: Final = web.AppKey("connections", Connections)
