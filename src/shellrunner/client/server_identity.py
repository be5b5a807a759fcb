"""Whose the server is: asked of the kernel for each connection to this machine, before anything is sent.

Used by `transport`. While the service does not listen, any user may take its port on loopback, and would be sent the
token. Must not know requests.
"""

import asyncio
import contextlib
import os
import socket
import weakref
from typing import Any, Final

import aiohttp

from shellrunner import ascii_text
from shellrunner.client.address import ServerAddress
from shellrunner.client.client_error import OTHER_USER, UNREACHABLE, ClientError
from shellrunner.peer_credentials import NoOwner, SockDiag, is_ambiguous, is_loopback, server_uid

ANYBODY: Final = "*"
_INITIAL_DELAY, _MAX_DELAY = 0.0005, 0.05  # seconds between two lookups
_UNKNOWN_TIMEOUT: Final = 0.5  # seconds; under SYN cookies a new connection has no row for a moment
_DEFAULT_TIMEOUT: Final = 45.0  # seconds


class ServerIdentity:
    """The users whose processes may be the server: one's own, root, and `server_user` (a name, a uid, or `*`)."""

    def __init__(self, address: ServerAddress, server_user: str | int | None) -> None:
        """Check connections to this address.

        Raises:
            ValueError: there is no such user.
        """
        self._address, self._server_user = address, server_user
        self._is_localhost = address.is_localhost
        self._is_anybody = server_user == ANYBODY
        self._uid = None if server_user is None or self._is_anybody else _uid_of(server_user)

    async def check(self, connection: socket.socket, accept_timeout: float) -> None:
        """Return if the process that accepted the connection may be the server, or is on another machine.

        Waits up to `accept_timeout` seconds until it is accepted: during a restart a socket unit holds it for long.

        Raises:
            ClientError: another user's process accepted it, or the kernel cannot say whose, or none did; or it is
                named localhost and is elsewhere (RFC 6761, 6.3: without a line in /etc/hosts a name server decides).
            ServerDisconnectedError: it was closed.
        """
        if self._is_localhost and not is_loopback(connection):
            raise ClientError(f"{self._address} resolves to an address that is not loopback", kind=OTHER_USER)
        if self._is_anybody:
            return
        match await _owner(connection, accept_timeout):
            case NoOwner.REMOTE:
                return
            case NoOwner.CLOSED:
                raise aiohttp.ServerDisconnectedError
            case NoOwner.WAITING:
                detail = (
                    f"cannot reach {self._address}: no process accepted the connection within {accept_timeout:g} s"
                )
                raise ClientError(detail, kind=UNREACHABLE)
            case NoOwner.UNKNOWN:
                raise ClientError(self._describe_unknown(), kind=OTHER_USER)
            case int(uid) if not self._is_trusted(uid):
                raise ClientError(self._describe_other(uid), kind=OTHER_USER)

    def _is_trusted(self, uid: int) -> bool:
        return uid == self._uid or (uid in {0, os.geteuid()} and not is_ambiguous(uid))

    def _describe_other(self, uid: int) -> str:
        name, also = _name_of(uid), "" if self._server_user is None else f" ({self._server_user})"
        user = f"the uid {uid}" if name is None else f"the user {name} (uid {uid})"
        return (
            f"the process that listens at {self._address} belongs to {user}, not to you, root or server_user{also}, "
            f'so nothing was sent to it; if it is your service, set server_user to "{uid if name is None else name}"'
        )

    def _describe_unknown(self) -> str:
        return (
            f"the owner of the process that listens at {self._address} could not be determined, so nothing was sent "
            "to it; it may be in a container or virtual machine: use its Unix socket or https, or, to trust whatever "
            f'listens there, set server_user to "{ANYBODY}"'
        )


class _CheckingConnector(aiohttp.BaseConnector):
    """A pool whose connections are checked before their first use."""

    def __init__(self, identity: ServerIdentity, **options: Any) -> None:
        super().__init__(**options)
        self._identity = identity
        self._checked: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:  # noqa: ASYNC109  as its base
        """Return a connection for one request, new or from the pool, that leads to the server."""
        connection = await super().connect(req, traces, timeout)
        try:
            await self._check(connection.protocol, connection.transport, timeout.sock_read)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _check(self, protocol: object, transport: asyncio.Transport | None, read_timeout: float | None) -> None:
        if protocol in self._checked:  # only root can change the owner of a socket that is open
            return
        if transport is None:
            raise aiohttp.ServerDisconnectedError
        await self._identity.check(transport.get_extra_info("socket"), read_timeout or _DEFAULT_TIMEOUT)
        self._checked.add(protocol)


class CheckingTcpConnector(_CheckingConnector, aiohttp.TCPConnector):
    """A pool of TCP connections."""


class CheckingUnixConnector(_CheckingConnector, aiohttp.UnixConnector):
    """A pool of connections to a Unix socket."""


async def _owner(connection: socket.socket, accept_timeout: float) -> int | NoOwner:
    clock, delay = asyncio.get_running_loop().time, _INITIAL_DELAY
    begun = clock()
    # One of its own, which neither a thread nor a fork of the calling program shares.
    with contextlib.closing(SockDiag()) as kernel:
        while True:
            owner = server_uid(connection, kernel)
            limit = accept_timeout if owner is NoOwner.WAITING else _UNKNOWN_TIMEOUT
            if owner not in {NoOwner.WAITING, NoOwner.UNKNOWN} or clock() - begun >= limit:
                return owner
            await asyncio.sleep(delay)
            delay = min(delay * 2, _MAX_DELAY)


def _uid_of(user: str | int) -> int:
    if isinstance(user, int) or ascii_text.is_decimal(user):
        return int(user)
    import pwd  # noqa: PLC0415  only for those who need it

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f"no such user: {user!r}") from None


def _name_of(uid: int) -> str | None:
    import pwd  # noqa: PLC0415  as above

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
