"""Every open connection, and the clock: what asks or takes too slowly is cut, and one too many is not begun.

Owned by the app, told by the protocol. Must not know requests, or what is answered.
"""

import asyncio
import fcntl
import logging
import math
import struct
import termios
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from aiohttp import web

log = logging.getLogger("shellrunner.web")

REASONS: Final = ("one-too-many", "slow-head", "large-head", "not-reading")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may cost; times are in seconds. `most` is how many connections there may be at once."""

    most: int = 1000
    head: float = 10.0  # from a connection's start, or a request's first byte, to the end of its head
    head_bytes: int = 1 << 16  # of a head that has not ended; a whole one is measured by the parser and the gate
    reading: float = 60.0  # in which a client must take something of what waits for it

    @property
    def pause(self) -> float:
        """How long nobody looks at the clock: so much later than its time may a client be cut."""
        return min(self.head, self.reading) / 4


class ClientConnection:
    """One connection: since when it owes us something."""

    __slots__ = ("_bytes", "_clock", "_left", "_since", "_taken", "idle", "transport")

    def __init__(self, transport: asyncio.Transport, clock: Callable[[], float]) -> None:
        """A head is awaited from the start on, so one that never sends anything is too slow too."""
        self.transport = transport
        self.idle: Callable[[], bool] = lambda: False  # says whether it waits for a request; set by who reads them
        self._clock = clock
        self._since: float | None = clock()
        self._bytes = 0
        self._taken = clock()
        self._left: float = 0

    def hears(self, size: int) -> int:
        """Some of a head has come, but not its end; returns how much of it there is."""
        if self._since is None:
            self._since = self._clock()
        self._bytes += size
        return self._bytes

    def is_asked(self) -> None:
        """A whole head has come."""
        self._since, self._bytes = None, 0

    def takes(self) -> None:
        """The client took something, though more may wait by now than did at the last look."""
        self._left = math.inf

    def fault(self, caps: ConnectionLimits) -> str | None:
        """Why it is not to be waited for any longer."""
        now, left = self._clock(), _untaken(self.transport)
        if left == 0 or left < self._left:
            self._taken = now
        self._left = left
        if now - self._taken >= caps.reading:
            return "not-reading"
        # While it is being answered, a head behind costs no more than the connection does anyway, and may not have
        # been read on because of us.
        if self._since is not None and now - self._since >= caps.head and self.idle():
            return "slow-head"
        return None


def _untaken(transport: asyncio.Transport) -> int:
    """How many bytes wait for the other end to take them: here, and in the kernel (tcp(7), unix(7), "SIOCOUTQ").

    Here alone would not tell: the kernel says that it has room again only after a third of megabytes was taken.
    """
    fd = transport.get_extra_info("socket").fileno()
    (kernels,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))) if fd >= 0 else (0,)
    return transport.get_write_buffer_size() + int(kernels)


class Connections:
    """All connections of an app, whatever they came in by."""

    def __init__(self, caps: ConnectionLimits, problems: Iterable[str] = ()) -> None:
        """None is open. How often each of these problems is answered on them is counted, by who answers."""
        self.caps = caps
        self.problems: Counter[str] = Counter(dict.fromkeys(problems, 0))
        self.cut: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._told: Counter[str] = Counter()
        self._lines: set[ClientConnection] = set()
        self._expected: WeakKeyDictionary[asyncio.Protocol, float] = WeakKeyDictionary()  # since when
        self._looks = False

    def __len__(self) -> int:
        """How many are open."""
        return len(self._lines)

    def expect(self, step: asyncio.Protocol) -> None:
        """A connection was accepted, and is to be opened once its TLS stands; if it never does, `step` is dropped.

        Raises:
            ConnectionRefusedError: enough have not come to that yet; it is closed by what accepted it.
        """
        now = asyncio.get_running_loop().time()
        if len(self._expected) >= self.caps.most:
            # Before Python 3.11.8 asyncio drops them only when garbage is collected.
            for each in [each for each, since in self._expected.items() if now - since >= self.caps.head]:
                del self._expected[each]
        if len(self._expected) >= self.caps.most:
            self.cut["one-too-many"] += 1
            raise ConnectionRefusedError("too many connections")
        self._expected[step] = now

    def open(self, step: asyncio.Protocol, transport: asyncio.Transport) -> ClientConnection | None:
        """What was expected is open; None if it is one too many, and cut."""
        self._expected.pop(step, None)
        loop = asyncio.get_running_loop()
        line = ClientConnection(transport, loop.time)
        if len(self._lines) >= self.caps.most:
            self.drop(line, "one-too-many")
            return None
        self._lines.add(line)
        if not self._looks:
            self._looks = True
            loop.call_later(self.caps.pause, self._look)
        return line

    def close(self, line: ClientConnection) -> None:
        """It is over."""
        self._lines.discard(line)

    def drop(self, line: ClientConnection, reason: str) -> None:
        """Cut it; also what was closed already, but whose last bytes nobody takes."""
        self.cut[reason] += 1
        line.transport.abort()

    def _look(self) -> None:
        for line in tuple(self._lines):
            if (reason := line.fault(self.caps)) is not None:
                self.drop(line, reason)
        self._tell()
        self._looks = bool(self._lines)
        if self._looks:
            asyncio.get_running_loop().call_later(self.caps.pause, self._look)

    def _tell(self) -> None:
        # One line for all of them: whoever opens thousands shall not fill the log too.
        if fresh := self.cut - self._told:
            words: dict[str, Any] = {reason.replace("-", "_"): number for reason, number in fresh.items()}
            # Browsers open connections that they may never use; being at the limit is the operator's affair.
            level = logging.WARNING if "one-too-many" in fresh else logging.DEBUG
            log.log(level, "connections cut", extra={**words, "open": len(self._lines), "most": self.caps.most})
            self._told = self.cut.copy()


CONNECTIONS: Final = web.AppKey("connections", Connections)
