"""Answer 503 to every request while the history cannot be opened yet: clients and probes know what they wait for.

Owned by the composition root. It reads the head of one request of HTTP/1.1 for each connection. Who asks is not
checked, because nothing is disclosed. Must not know the app.
"""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Final, cast

from shellrunner.service.network.binding import Listeners
from shellrunner.service.network.listening import start_listening
from shellrunner.service.network.tls import Certificate

_MAX_CONNECTIONS: Final = 100  # further ones are closed
_TIMEOUT: Final = 5.0  # seconds for the handshake, and for a request to arrive
_MAX_HEAD: Final = 8192  # bytes
_PATH: Final = re.compile(rb"[A-Z]+ ([^ ?]*)")
_ALIVE: Final = (200, "text/plain; charset=utf-8", b"ok\n")
_DETAIL: Final = "the service is starting, and the history cannot be opened yet"


@contextlib.asynccontextmanager
async def unavailable(
    listeners: Listeners, socket_mode: int, certificate: Certificate | None, detail: str = _DETAIL
) -> AsyncIterator[None]:
    """Answer requests on all addresses with 503, but for the probe whether the process responds.

    `detail` says what it waits for; anybody may read it. At the end the addresses are still bound, and connections
    that were not accepted wait for the app.

    Raises:
        ShellrunnerError: an address is in use, or may not be used.
    """
    connections: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for endpoint in listeners.endpoints:
            listener = start_listening(stack, endpoint, socket_mode)
            is_tls = certificate is not None and listener.family != socket.AF_UNIX
            server = await loop.create_server(
                lambda: _UnavailableProtocol(connections, detail),
                sock=listener.dup(),  # the server closes it
                ssl=certificate.context if certificate and is_tls else None,
                ssl_handshake_timeout=_TIMEOUT if is_tls else None,
            )
            stack.callback(server.close)
        stack.callback(_abort, connections)
        yield


def _abort(connections: set[asyncio.Transport]) -> None:
    for each in connections:
        each.abort()


class _UnavailableProtocol(asyncio.Protocol):
    def __init__(self, connections: set[asyncio.Transport], detail: str) -> None:
        self._connections, self._head, self._is_answered = connections, b"", False
        self._detail = detail
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(_TIMEOUT, self._transport.abort)
        if len(self._connections) >= _MAX_CONNECTIONS:
            self._transport.abort()
        self._connections.add(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        self._head += data
        if b"\r\n\r\n" in self._head or len(self._head) > _MAX_HEAD:
            self._is_answered = True
            self._transport.write(_answer(self._head, self._detail))
            if self._transport.can_write_eof():
                # The rest of the request is read until the client closes: with unread data, close(2) would reset the
                # connection, perhaps before the client has read the answer.
                self._transport.write_eof()
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._connections.discard(self._transport)


def _answer(head: bytes, detail: str) -> bytes:
    found = _PATH.match(head)
    path = found[1] if found else b""
    if path == b"/healthz":
        return _response(*_ALIVE)
    if path == b"/readyz":
        return _response(*_problem("not-ready", detail, reasons=["store-unavailable"]))
    return _response(*_problem("store-unavailable", detail))


def _problem(code: str, detail: str, **members: object) -> tuple[int, str, bytes]:
    """Return a problem as `web.http.problems` has it."""
    title = code.replace("-", " ").capitalize()
    document = {"type": f"/problems/{code}", "title": title, "status": 503, "detail": detail, **members}
    return 503, "application/problem+json; charset=utf-8", json.dumps(document, separators=(",", ":")).encode()


def _response(status: int, content_type: str, body: bytes) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Service Unavailable'}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Server: shellrunner",
        "Connection: close",
        *(["Retry-After: 1"] if status == 503 else []),
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body
