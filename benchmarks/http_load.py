"""A load generator for HTTP/1.1: keep-alive connections that send a request when the previous one is answered.

Plain sockets and epoll, about 20 µs of CPU a request, so that it does not dominate the two cores that it shares with
the service; its own CPU time is reported with each figure.
"""

import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

_CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_RECEIVE_BYTES = 1 << 18


class Load(NamedTuple):
    """What the load generator saw."""

    seconds: float
    latencies: list[float]  # of each request in seconds, in the order of the answers
    body: bytes  # of the last answer


class Request(NamedTuple):
    """A request, without the port of the server."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})

    def encode(self, port: int) -> bytes:
        """Return what is sent to a server at this port of localhost."""
        fields = {"Host": f"localhost:{port}", **self.headers}
        if self.body:
            fields |= {"Content-Type": "application/json", "Content-Length": str(len(self.body))}
        lines = (f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()))
        return "\r\n".join((*lines, "", "")).encode() + self.body


def get(path: str) -> Request:
    """Return a GET request."""
    return Request("GET", path)


def post(path: str, document: object, headers: Mapping[str, str] | None = None) -> Request:
    """Return a POST request with a JSON document."""
    return Request("POST", path, json.dumps(document).encode(), headers or {})


class _Connection:
    """One connection and the answer that it is receiving."""

    def __init__(self, port: int, request: Request) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request.encode(port)
        self._received = b""
        self._sent_at = 0.0

    def send(self) -> None:
        self._sent_at = time.perf_counter()
        self.socket.sendall(self._request)

    def receive(self, status_line: bytes) -> tuple[float, bytes] | None:
        """Receive; return the latency and the body once the answer is complete."""
        chunk = self.socket.recv(_RECEIVE_BYTES)
        if not chunk:
            raise ConnectionError(f"closed by the server after {self._received[:200]!r}")
        received = self._received + chunk if self._received else chunk
        head = received.find(b"\r\n\r\n")
        if head >= 0:
            if not received.startswith(status_line):
                raise ConnectionError(f"not {status_line!r}: {received[:1000]!r}")
            length = _CONTENT_LENGTH.search(received, 0, head)
            if length is None:
                raise ConnectionError(f"without Content-Length: {received[:head]!r}")
            if len(received) >= head + 4 + int(length[1]):
                self._received = b""
                return time.perf_counter() - self._sent_at, received[head + 4 :]
        self._received = received
        return None


def send(port: int, request: Request, count: int, connections: int, *, expected: int = 200) -> Load:
    """Send the request `count` times over this many connections, each after the answer to the one before."""
    return send_to([port], request, count, connections, expected=expected)


def send_to(ports: Sequence[int], request: Request, count: int, connections: int, *, expected: int = 200) -> Load:
    """Send the request as `send` does, over connections to several servers in turn."""
    turns = iter(range(count))
    return _send_while(lambda: next(turns, None) is not None, ports, request, min(connections, count), expected)


def send_for(port: int, request: Request, seconds: float, connections: int, *, expected: int = 200) -> Load:
    """Send the request for this many seconds."""
    deadline = time.monotonic() + seconds
    return _send_while(lambda: time.monotonic() < deadline, [port], request, connections, expected)


def _send_while(
    goes_on: Callable[[], bool], ports: Sequence[int], request: Request, connections: int, expected: int
) -> Load:
    """Send the request over this many connections for as long as `goes_on`; return once the last is answered."""
    status_line = b"HTTP/1.1 %d " % expected
    latencies: list[float] = []
    body = b""
    opened = [_Connection(ports[number % len(ports)], request) for number in range(connections)]
    with selectors.EpollSelector() as selector:
        for connection in opened:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        began = time.perf_counter()
        unanswered = 0
        for connection in opened:
            if goes_on():
                connection.send()
                unanswered += 1
        while unanswered:
            for key, _ in selector.select():
                connection = key.data
                if (answer := connection.receive(status_line)) is not None:
                    latency, body = answer
                    latencies.append(latency)
                    if goes_on():
                        connection.send()
                    else:
                        unanswered -= 1
        seconds = time.perf_counter() - began
    for connection in opened:
        connection.socket.close()
    return Load(seconds, latencies, body)
