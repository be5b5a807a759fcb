"""asyncio's TLS, except that a client may close its sending side first and still gets its answers.

Made for each connection by `listening`. The only module that uses what asyncio does not document of its TLS;
test_half_closed.py says what breaks without it. Must not know HTTP.

asyncio (3.11 to 3.14) closes a connection as soon as the client has sent close_notify, or has shut down its side of
the TCP connection, whatever `eof_received` returns. But either ends one direction only (RFC 8446, 6.1).
"""

import asyncio
import contextlib
import ssl
from asyncio.sslproto import AppProtocolState, SSLProtocol, SSLProtocolState
from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

from shellrunner.web.http.connections import ReportRefusal

TLS_TIMEOUT: Final = 10.0  # seconds that a client has for the handshake, and for the shutdown
_UntypedSslProtocol: Any = SSLProtocol  # typeshed knows little of it


@runtime_checkable
class CountsHandshakes(Protocol):
    """A protocol that counts connections whose handshake is not done; another takes its place afterwards."""

    def tcp_connected(self, transport: asyncio.BaseTransport) -> None:
        """Count a connection."""

    def tcp_lost(self) -> None:
        """Forget it: its handshake has failed."""


class TlsProtocol(_UntypedSslProtocol):  # type: ignore[misc]
    """TLS at the server's end of a connection; `eof_received` of the protocol above it decides, as without TLS."""

    _app_state: Any
    _keeps_open = False  # the client's side has ended, and the protocol above has more to send
    _tcp_ended = False
    report_refusal: ReportRefusal | None = None  # of handshakes that fail

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, of which the protocol above is notified: it counts the connection."""
        if isinstance(self._app_protocol, CountsHandshakes):
            self._app_protocol.tcp_connected(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the TCP connection, perhaps before that of the handshake."""
        if isinstance(self._app_protocol, CountsHandshakes):
            self._app_protocol.tcp_lost()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Handle the end of what the client sends over TCP, with or without a close_notify before it."""
        self._tcp_ended = True
        if self._state is not SSLProtocolState.WRAPPED:
            super().eof_received()
            return None
        if not self._app_reading_paused:  # else there may be more to read, and `_do_read` is called again
            self._handle_tcp_end()
        return True

    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        # A client that has only closed the connection, such as a health check, was not refused.
        if isinstance(handshake_exc, ssl.SSLError):
            self._report((handshake_exc.reason or "").replace("_", " ").lower())
        super()._on_handshake_complete(handshake_exc)

    def _check_handshake_timeout(self) -> None:
        if self._state is SSLProtocolState.DO_HANDSHAKE:
            self._report(f"not complete after {TLS_TIMEOUT:g} s")
        super()._check_handshake_timeout()

    def _report(self, reason: str) -> None:
        if self.report_refusal is not None:
            self.report_refusal(self._transport, "tls-handshake", reason)

    def _do_read(self) -> None:
        super()._do_read()
        if self._tcp_ended and not self._app_reading_paused and self._state is SSLProtocolState.WRAPPED:
            self._handle_tcp_end()

    def _handle_tcp_end(self) -> None:
        self._call_eof_received()
        self._start_shutdown()

    def _call_eof_received(self) -> None:
        if self._app_state == AppProtocolState.STATE_CON_MADE:
            self._app_state = AppProtocolState.STATE_EOF
            self._keeps_open = bool(self._app_protocol.eof_received())

    def _start_shutdown(self) -> None:
        """Begin to close, for the protocol above (which has closed its transport) or because it lets the client."""
        if not self._keeps_open or self._app_transport is None or self._app_transport.is_closing():
            super()._start_shutdown()

    def _do_shutdown(self) -> None:
        if not (self._keeps_open or self._tcp_ended):
            super()._do_shutdown()
            return
        # Nothing more comes from the client, so there is nothing to wait for after our close_notify.
        with contextlib.suppress(ssl.SSLError):
            self._sslobj.unwrap()
        # asyncio would drop this if the client reads slowly; the transport sends it before it closes.
        self._transport.write(self._outgoing.read())
        self._on_shutdown_complete(None)


def over_tls(
    make_protocol: Callable[[], asyncio.Protocol],
    context: ssl.SSLContext,
    report_refusal: ReportRefusal | None = None,
) -> Callable[[], asyncio.BufferedProtocol]:
    """Return a protocol factory for a listener without TLS of its own, which adds TLS to every connection.

    Failed handshakes are reported to `report_refusal`.
    """
    timeouts = {"ssl_handshake_timeout": TLS_TIMEOUT, "ssl_shutdown_timeout": TLS_TIMEOUT}

    def make() -> asyncio.BufferedProtocol:
        loop = asyncio.get_running_loop()
        protocol = TlsProtocol(loop, make_protocol(), context, waiter=None, server_side=True, **timeouts)
        protocol.report_refusal = report_refusal
        return protocol

    return make
