"""Whose the server is: asked of the kernel for each connection to this machine, before anything is sent.

Used by the transports. While the service does not listen, any user may take its port on loopback, and would be sent
the token. Must not know requests.
"""

import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from shellrunner import ascii_text
from shellrunner.client import client_error
from shellrunner.client.address import ServerAddress
from shellrunner.client.client_error import OTHER_USER, ClientError
from shellrunner.peer_credentials import NoOwner, SockDiag, is_ambiguous, is_loopback, server_uid

ANYBODY: Final = "*"
_INITIAL_DELAY, _MAX_DELAY = 0.0005, 0.05  # seconds between two lookups
_UNKNOWN_TIMEOUT: Final = 0.5  # seconds; under SYN cookies a new connection has no row for a moment

Sleep: TypeAlias = Callable[[float], Awaitable[None]]


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

    async def check(self, connection: socket.socket, accept_timeout: float, sleep: Sleep) -> None:
        """Return if the process that accepted the connection may be the server, or is on another machine.

        Waits up to `accept_timeout` seconds until it is accepted: during a restart a socket unit holds it for long.

        Raises:
            ClientError: another user's process accepted it, or the kernel cannot say whose, or none did; or it was
                closed; or it is named localhost and is elsewhere (RFC 6761, 6.3: without a line in /etc/hosts a name
                server decides).
        """
        if self._is_localhost and not is_loopback(connection):
            raise ClientError(f"{self._address} resolves to an address that is not loopback", kind=OTHER_USER)
        if self._is_anybody:
            return
        match await _owner(connection, accept_timeout, sleep):
            case NoOwner.REMOTE:
                return
            case NoOwner.CLOSED:
                raise client_error.interrupted(self._address, client_error.CLOSED)
            case NoOwner.WAITING:
                reason = f"no process accepted the connection within {accept_timeout:g} s"
                raise client_error.unreachable(self._address, reason)
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


async def _owner(connection: socket.socket, accept_timeout: float, sleep: Sleep) -> int | NoOwner:
    begun, delay = time.monotonic(), _INITIAL_DELAY
    # One of its own, which neither a thread nor a fork of the calling program shares.
    with contextlib.closing(SockDiag()) as kernel:
        while True:
            owner = server_uid(connection, kernel)
            limit = accept_timeout if owner is NoOwner.WAITING else _UNKNOWN_TIMEOUT
            if owner not in {NoOwner.WAITING, NoOwner.UNKNOWN} or time.monotonic() - begun >= limit:
                return owner
            await sleep(delay)
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
