"""Open connections and their deadlines: slow clients are dropped, and where there are too many, some make way.

A new connection always gets the chance to authenticate itself, as long as any other only waits. Until then it is a
stranger's: these have a share of all connections, a few for each source, and are not kept open for long.
`Connections` belongs to the app and is called by the protocol of each connection. Must not know requests.
"""

import asyncio
import fcntl
import logging
import math
import os
import select
import socket
import struct
import termios
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aiohttp import web

from shellrunner.errors import TooManyConnections
from shellrunner.peer_credentials import ConnectionPeer, peer_has_left
from shellrunner.web.http.sources import Network, find_source, identify
from shellrunner.web.http.strangers import Strangers

log = logging.getLogger("shellrunner.web")

_LOG_INTERVAL: Final = 60.0  # seconds between two lines
_MAX_SOURCES: Final = 3  # that a line names
REASONS: Final = ("one-too-many", "unauthenticated", "idle", "slow-head", "large-head", "not-reading", "revoked")
_OPERATORS_CONCERN: Final = frozenset({"one-too-many", "unauthenticated", "idle"})
# Those that refuse what the client asks for. Browsers open connections that they may never use, or stop reading.
_REFUSALS: Final = frozenset({"one-too-many", "unauthenticated", "large-head"})


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
    max_unauthenticated: int = 250  # connections of strangers
    max_unauthenticated_per_source: int = 20
    per_source_grace: float = 1.0  # a source may have more that are younger than this
    proxies: Sequence[Network] = ()  # which have many clients: a share of one source is not for them
    own_uid: int = field(default_factory=os.geteuid)  # whose processes are no strangers
    stranger_idle_timeout: float = 5.0  # between the requests of a stranger; others have aiohttp's keep-alive
    head_timeout: float = 10.0  # from the start of a connection, or a request's first byte, to the end of its head
    max_head_bytes: int = 1 << 16  # of an unfinished head; a whole one is measured by the parser and the middleware
    send_timeout: float = 60.0  # within which a client must take some of the bytes that are waiting for it

    @property
    def stranger_send_timeout(self) -> float:
        """Like `send_timeout`, for a stranger: what it is sent is short."""
        return min(self.head_timeout, self.send_timeout)

    @property
    def check_interval(self) -> float:
        """The time between two checks, by which a client may be dropped too late."""
        return min(self.head_timeout, self.send_timeout, self.stranger_idle_timeout) / 4


class ClientConnection:
    """The deadlines of one connection."""

    __slots__ = (
        "_clock",
        "_counted_since",
        "_doubtful_since",
        "_head_bytes",
        "_head_since",
        "_idle_since",
        "_is_answered",
        "_own_uid",
        "_taken_at",
        "_unsent",
        "identity",
        "is_half_closed",
        "is_idle",
        "peer",
        "source",
        "transport",
    )

    def __init__(self, transport: asyncio.Transport, clock: Callable[[], float], limits: ConnectionLimits) -> None:
        """Expect a head from now on, so that a connection that never sends anything is too slow too."""
        self.transport = transport  # during a TLS handshake that of TCP
        self.is_idle: Callable[[], bool] = lambda: True  # whether it waits for a request; set by the protocol
        self._own_uid = limits.own_uid
        self.peer = ConnectionPeer(transport.get_extra_info("socket"))
        self.source = find_source(transport, self.peer, limits.proxies, limits.own_uid)
        self.identity = self.source.key if self.source.is_own else None  # who was authenticated on it last
        self._clock = clock
        self._counted_since = self._idle_since = clock()
        self._head_since: float | None = self._idle_since
        self._head_bytes = 0
        self._is_answered = False
        self._taken_at = clock()
        self._unsent: float = 0
        self.is_half_closed = False  # the client has shut down its sending side
        self._doubtful_since: float | None = None

    @property
    def age(self) -> float:
        """Seconds since it was accepted, or since a request on it was rejected."""
        return self._clock() - self._counted_since

    @property
    def waits_since(self) -> float:
        """Since when it waits for a request, if it does."""
        return self._idle_since

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is being done for it: no request is answered, and no other has begun to arrive.

        One whose request was answered before its body has arrived is not idle, but only waits for the rest of that.
        """
        return (self.is_idle() or self._is_answered) and not self._head_bytes

    @property
    def is_between_requests(self) -> bool:
        """Whether a request was answered, and no other has begun to arrive."""
        return self._head_since is None

    def identify(self) -> None:
        """Ask the kernel whose it is; a process of the service's own user is no stranger."""
        self.source = identify(self.source, self.peer, self._own_uid)
        if self.source.is_own:
            self.identity = self.source.key

    def rejected(self) -> None:
        """Note that nobody is known on it any more."""
        self.identity, self._counted_since = None, self._clock()

    def answered(self, *, is_last: bool) -> None:
        """Note that a request was answered, the last one of those that have arrived or not."""
        self._idle_since, self._is_answered = self._clock(), is_last

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
        self._head_since, self._head_bytes, self._is_answered = None, 0, False

    def bytes_taken(self) -> None:
        """Note that the client took something, although more may be waiting by now than at the last check."""
        self._unsent = math.inf

    def drop_reason(self, limits: ConnectionLimits) -> str | None:
        """Return why the connection must be dropped, or None."""
        now, unsent = self._clock(), _unsent_bytes(self.transport)
        if unsent == 0 or unsent < self._unsent:
            self._taken_at = now
        self._unsent = unsent
        if now - self._taken_at >= (limits.stranger_send_timeout if self.identity is None else limits.send_timeout):
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
        self._cut_sources: Counter[str] = Counter()
        self._next_log_at = 0.0
        self._open: set[ClientConnection] = set()
        self._strangers = Strangers()
        self._is_checking = False

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._open)

    def __iter__(self) -> Iterator[ClientConnection]:
        """Iterate over the open connections."""
        return iter(self._open)

    @property
    def unauthenticated(self) -> int:
        """How many of them are strangers'."""
        return len(self._strangers)

    def accept(self, transport: asyncio.Transport) -> ClientConnection | None:
        """Open a connection that was accepted, before any TLS handshake; others may have to make way.

        Return None if none could, so that this one was dropped.
        """
        loop = asyncio.get_running_loop()
        connection = ClientConnection(transport, loop.time, self.limits)
        self._open.add(connection)
        if connection.identity is None:
            self._strangers.add(connection)
        if not self._is_checking:
            self._is_checking = True
            loop.call_later(self.limits.check_interval, self._check)
        self._make_way(connection)
        return connection if connection in self._open else None

    def close(self, connection: ClientConnection) -> None:
        """Forget a connection that has ended."""
        self._open.discard(connection)
        self._strangers.remove(connection)

    def authenticated(self, connection: ClientConnection, identity: str) -> None:
        """Note who has sent the request that has arrived: from now on it is no stranger's connection.

        Raises:
            TooManyConnections: only the strangers' share is left, and this token has most of all others, all in use.
        """
        if connection.identity == identity:
            return
        self._strangers.remove(connection)
        connection.identity = identity
        left = self.limits.max_connections - len(self._open)
        if left < self.limits.max_unauthenticated and self._has_most(identity):
            if (waiting := self._longest_waiting(connection, identity)) is None:
                raise TooManyConnections
            self.drop(waiting, "idle")

    def _has_most(self, identity: str) -> bool:
        """Return whether a token has more than a few connections, and no other client has more."""
        if not identity.startswith("token:"):
            return False  # the service's own user
        numbers = Counter(each.identity for each in self._open if each.identity is not None)
        few = self.limits.max_unauthenticated_per_source
        return numbers[identity] > few and numbers[identity] == max(numbers.values())

    def rejected(self, connection: ClientConnection) -> None:
        """Note that the sender of the request that has arrived could not be authenticated."""
        if connection in self._open:
            self._strangers.remove(connection)
            connection.rejected()
            self._strangers.add(connection)
            self._make_way(connection)

    def _make_way(self, newest: ClientConnection) -> None:
        """Drop what exceeds the limits; not the newest, unless all others are busy."""
        share, grace = self.limits.max_unauthenticated_per_source, self.limits.per_source_grace
        for stranger in self._strangers.over_share(newest.source.key, share, grace):
            self._drop_stranger(stranger)
        self._drop_stranger(self._strangers.first_to_go(self.limits.max_unauthenticated))
        if len(self._open) > self.limits.max_connections:
            victim = self._strangers.first_to_go()
            if victim is None or victim is newest:
                victim = self._longest_waiting(newest)
                self.drop(victim or newest, "idle" if victim else "one-too-many")
            else:
                self._drop_stranger(victim)

    def _drop_stranger(self, stranger: Any) -> None:
        if stranger is not None:
            self._cut_sources[stranger.source.key] += 1
            self.drop(stranger, "unauthenticated")

    def _longest_waiting(self, newest: ClientConnection, identity: str | None = None) -> ClientConnection | None:
        """Return what waits for a request the longest: of this identity, or of the one that has most of those."""
        others = [each for each in self._open if each.identity is not None and each is not newest]
        waiting = [each for each in others if identity in (None, each.identity) and each.is_waiting]
        numbers = Counter(each.identity for each in waiting)
        return min(waiting, key=lambda each: (-numbers[each.identity], each.waits_since), default=None)

    def drop(self, connection: ClientConnection, reason: str) -> None:
        """Abort a connection, even one that is closing already but whose last bytes the client does not take."""
        self.cut[reason] += 1
        if reason in _REFUSALS:
            self.report_refusal(connection.transport, reason)
        self.close(connection)
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
            elif connection.identity is None:
                self._check_stranger(connection)
        share, grace = self.limits.max_unauthenticated_per_source, self.limits.per_source_grace
        for stranger in self._strangers.all_over_share(share, grace):
            self._drop_stranger(stranger)
        self._log_drops()
        self._is_checking = bool(self._open)
        if self._is_checking:
            asyncio.get_running_loop().call_later(self.limits.check_interval, self._check)

    def _check_stranger(self, connection: ClientConnection) -> None:
        """Close a stranger's connection that waits for too long for another request, as a keep-alive ends."""
        now, source = asyncio.get_running_loop().time(), connection.source
        is_due = now - connection.waits_since >= self.limits.stranger_idle_timeout
        if source.is_proxy or not (is_due and connection.is_waiting and connection.is_between_requests):
            return
        if source.is_provisional:
            self._strangers.remove(connection)
            connection.identify()
            if connection.identity is not None:
                return
            self._strangers.add(connection)
        connection.transport.close()

    def _log_drops(self) -> None:
        # One line for all of them: a client that opens thousands must not fill the log as well.
        now = asyncio.get_running_loop().time()
        if now >= self._next_log_at and (fresh := self.cut - self._logged):
            counts: dict[str, Any] = {reason.replace("-", "_"): number for reason, number in fresh.items()}
            # Browsers open connections that they may never use; reaching a limit is the operator's concern.
            level = logging.WARNING if _OPERATORS_CONCERN & fresh.keys() else logging.DEBUG
            limit = {"open": len(self._open), "max_connections": self.limits.max_connections}
            if self._cut_sources:
                counts["sources"] = dict(self._cut_sources.most_common(_MAX_SOURCES))
                self._cut_sources.clear()
            log.log(level, "connections dropped", extra={**counts, **limit})
            self._logged, self._next_log_at = self.cut.copy(), now + _LOG_INTERVAL


CONNECTIONS: Final = web.AppKey("connections", Connections)
