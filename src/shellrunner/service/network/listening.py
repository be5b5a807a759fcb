"""Listen for requests on the bound addresses, or on sockets passed by systemd.

Owned by the composition root. Must not know what is served on them.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from aiohttp import web

from shellrunner.config import Address, AuthSettings, Settings
from shellrunner.errors import ConfigError, ShellrunnerError
from shellrunner.service.network.binding import Listeners, cannot_listen
from shellrunner.service.network.tls import Certificate
from shellrunner.service.network.tls_protocol import over_tls
from shellrunner.service.network.unix_socket import bound
from shellrunner.systemd.sockets import passed_sockets
from shellrunner.web import Runner
from shellrunner.web.http.connections import CONNECTIONS, ReportRefusal

log = logging.getLogger("shellrunner.service")

_SHUTDOWN_TIMEOUT: Final = 0.5  # seconds for open requests when the service stops; aiohttp waits twice
_BACKLOG: Final = 1024


def take_passed_sockets(settings: Settings) -> list[socket.socket]:
    """Take the sockets that systemd passes; they replace the addresses of the settings.

    Raises:
        ConfigError: one of them cannot be used, or would let anybody run commands.
    """
    passed = passed_sockets()
    check_passed_sockets(passed, settings.auth)
    return passed


def check_passed_sockets(passed: Sequence[socket.socket], auth: AuthSettings) -> None:
    """Apply to passed sockets the rules that `config` applies to addresses; also on SIGHUP: tokens may be gone.

    Raises:
        ConfigError: one of them would let anybody run commands.
    """
    for each in passed:
        if not auth.tokens and not _is_private(each):
            raise ConfigError(
                f"systemd passed a socket on {_url(each)}: it must be on loopback or a Unix socket, because without "
                "tokens anybody who can connect can run commands. Create a token: shellrunner token create NAME"
            )


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, listeners: Listeners, socket_mode: int, certificate: Certificate | None
) -> AsyncIterator[list[str]]:
    """Serve the app; yield its URLs. Files of Unix sockets get the permissions `socket_mode`.

    Raises:
        ShellrunnerError: an address is in use, or may not be used.
    """
    runner = Runner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_TIMEOUT)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        servers = _Servers(runner.server, stack, certificate, app[CONNECTIONS].report_refusal)
        # All before the first accepts: nothing is served unless every address is ours.
        sockets = [start_listening(stack, each, socket_mode) for each in listeners.endpoints]
        for each in sockets:
            await servers.add(each)
        servers.warn_unencrypted()
        yield servers.urls


def start_listening(stack: contextlib.AsyncExitStack, endpoint: socket.socket | Address, mode: int) -> socket.socket:
    """Listen on a bound socket, or bind a Unix socket and listen on it.

    Raises:
        ShellrunnerError: the address is in use, or may not be used.
    """
    try:
        listener = (
            endpoint if isinstance(endpoint, socket.socket) else stack.enter_context(bound(endpoint.path, mode))
        )
        # Another process may have bound the same address before, without listening: the first that listens has it.
        listener.listen(1)
    except OSError as error:
        if isinstance(endpoint, socket.socket):
            host, port, *_ = endpoint.getsockname()
            raise cannot_listen(host, port, error) from None
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ShellrunnerError(f"cannot listen on {endpoint.path}: {reason}") from None
    return listener


class _Servers:
    """The servers, one for each socket; each is closed when the stack is left."""

    def __init__(
        self,
        factory: Any,
        stack: contextlib.AsyncExitStack,
        certificate: Certificate | None,
        report_refusal: ReportRefusal,
    ) -> None:
        self.urls: list[str] = []
        self._factory, self._stack, self._certificate = factory, stack, certificate
        self._report_refusal = report_refusal
        self._unencrypted: list[str] = []

    async def add(self, listener: socket.socket) -> None:
        """Accept connections of a listening socket."""
        certificate = None if listener.family == socket.AF_UNIX else self._certificate
        # Not through aiohttp's sites: they have no timeout for the handshake. With a backlog of more, asyncio (before
        # Python 3.13) logs that many lines and makes that many timers each time that no descriptor is left.
        factory = self._factory
        if certificate:
            factory = over_tls(factory, certificate.context, self._report_refusal)
        server = await asyncio.get_running_loop().create_server(factory, sock=listener, backlog=1)
        self._stack.callback(server.close)
        _set_backlog(listener)
        self.urls.append(_url(listener, "https" if certificate else "http"))
        if not certificate and not _is_private(listener):
            self._unencrypted.append(self.urls[-1])

    def warn_unencrypted(self) -> None:
        """Log a warning if tokens can be intercepted."""
        if self._unencrypted:
            log.warning(
                "tokens are sent unencrypted, and anybody who intercepts one can run commands: "
                "set server.tls_cert and server.tls_key",
                extra={"urls": self._unencrypted},
            )


def _set_backlog(listener: Any) -> None:
    """Have the kernel queue more connections than are accepted at once: listen(2) may be called again."""
    if isinstance(listener, socket.socket):
        listener.listen(_BACKLOG)
        return
    with socket.socket(fileno=os.dup(listener.fileno())) as another:  # of asyncio's, which lacks the method
        another.listen(_BACKLOG)


def _is_private(listener: Any) -> bool:
    return listener.family == socket.AF_UNIX or Address(host=listener.getsockname()[0]).is_private


def _url(listener: Any, scheme: str = "http") -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return "unix:" + os.fsdecode(name).replace("\0", "@", 1)  # unix(7): an abstract name begins with a NUL
    host, port = name[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
