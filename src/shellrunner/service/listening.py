"""Where requests come in: sockets that are opened here, or that systemd has opened.

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
from shellrunner.service.tls import Certificate
from shellrunner.service.unix_socket import bound
from shellrunner.systemd.sockets import passed_sockets
from shellrunner.web import Runner

log = logging.getLogger("shellrunner.service")

_LAST_WORDS: Final = 0.5  # seconds that open requests have when the service stops; aiohttp takes them twice
_HANDSHAKE: Final = 10.0  # seconds that a client has to begin TLS, and to end it
_BACKLOG: Final = 1024


def take_passed(settings: Settings) -> list[socket.socket]:
    """Take the sockets that systemd has opened, which replace those of the settings.

    Raises:
        ConfigError: one of them is not for us, or anybody could reach it and run commands.
    """
    passed = passed_sockets()
    check_passed(passed, settings.auth)
    return passed


def check_passed(passed: Sequence[socket.socket], auth: AuthSettings) -> None:
    """Refuse what `config` refuses of the addresses in the settings; also at SIGHUP, when the last token has gone.

    Raises:
        ConfigError: anybody could reach one of them and run commands.
    """
    for each in passed:
        if not auth.tokens and not _is_private(each):
            raise ConfigError(
                f"systemd passed a socket on {_url(each)}: it must be on loopback or a Unix socket, because without "
                "tokens whoever reaches it may run commands here. Make a token: shellrunner token create NAME"
            )


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, settings: Settings, passed: Sequence[socket.socket], certificate: Certificate | None
) -> AsyncIterator[list[str]]:
    """Serve the app on the sockets that were passed, else where the settings say; yield the URLs of it.

    Raises:
        ShellrunnerError: an address is taken, or not ours to take.
    """
    runner = Runner(app, access_log=None, handle_signals=False, shutdown_timeout=_LAST_WORDS)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        doors = _Doors(runner.server, stack, certificate)
        for each in passed:
            await doors.take(each)
        for address in () if passed else settings.server.addresses:
            try:
                await doors.open(address, int(settings.server.socket_mode, 8))
            except OSError as error:
                where = address.path or f"{address.host} port {address.port}"
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise ShellrunnerError(f"cannot listen on {where}: {reason}") from None
        doors.warn()
        yield doors.urls


class _Doors:
    """What listens, each until the stack is left."""

    def __init__(self, factory: Any, stack: contextlib.AsyncExitStack, certificate: Certificate | None) -> None:
        self.urls: list[str] = []
        self._factory, self._stack = factory, stack
        self._tls: dict[str, Any] = {}
        if certificate:
            patience = {"ssl_handshake_timeout": _HANDSHAKE, "ssl_shutdown_timeout": _HANDSHAKE}
            self._tls = {"ssl": certificate.context, **patience}
        self._in_clear: list[str] = []

    async def open(self, address: Address, mode: int) -> None:
        """Listen on an address."""
        if address.path:
            await self.take(self._stack.enter_context(bound(address.path, mode)))
        else:
            await self._listen(self._tls, host=address.host, port=address.port)

    async def take(self, listener: socket.socket) -> None:
        """Listen on a socket that is bound already."""
        await self._listen({} if listener.family == socket.AF_UNIX else self._tls, sock=listener)

    async def _listen(self, tls: dict[str, Any], **where: Any) -> None:
        # Not through aiohttp's sites: they cannot say how long a handshake may take.
        create = asyncio.get_running_loop().create_server
        server: asyncio.Server = await create(self._factory, backlog=_BACKLOG, **tls, **where)
        self._stack.callback(server.close)
        for listener in server.sockets:
            self.urls.append(_url(listener, "https" if tls else "http"))
            if not tls and not _is_private(listener):
                self._in_clear.append(self.urls[-1])

    def warn(self) -> None:
        """Say that tokens can be overheard, if they can."""
        if self._in_clear:
            log.warning(
                "tokens travel in clear, and whoever overhears one may run commands: set server.tls_cert and tls_key",
                extra={"urls": self._in_clear},
            )


def _is_private(listener: Any) -> bool:
    return listener.family == socket.AF_UNIX or Address(host=listener.getsockname()[0]).is_private


def _url(listener: Any, scheme: str = "http") -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return "unix:" + os.fsdecode(name).replace("\0", "@", 1)  # unix(7): one without a file begins with a NUL
    host, port = name[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
