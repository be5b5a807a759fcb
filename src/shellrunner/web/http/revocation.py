"""Revocation at once: what is open for an identity ends as soon as that is no longer valid, not at its next request.

`Revocations` belongs to the app, a `ConnectionIdentity` to the protocol of each connection; the security middleware
binds it to the identity of each request. The authenticator reports every change; a timer watches for what expires.
Must not know what makes an identity invalid, or what a request does.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from shellrunner.access import Identity
from shellrunner.access.authenticator import Authenticator
from shellrunner.errors import TokenNeeded

_MAX_DELAY: Final = 15.0  # seconds until the clock is looked at again, which may have been set meanwhile
_MIN_DELAY: Final = 0.01  # seconds: the timer's clock is not the one that tokens expire by


class Revocations:
    """All connections that carry requests of an identity."""

    def __init__(self, authenticator: Authenticator) -> None:
        """Check all of them whenever `authenticator` admits fewer identities than before."""
        self._authenticator = authenticator
        self._bound: set[ConnectionIdentity] = set()
        self._timer: asyncio.TimerHandle | None = None
        authenticator.on_change = self.check

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._bound)

    def add(self, connection: "ConnectionIdentity", identity: Identity) -> None:
        """End the connection as soon as its identity is no longer valid, until it is discarded."""
        self._bound.add(connection)
        if (seconds := self._authenticator.seconds_left(identity)) is not None:
            self._arm(seconds)

    def discard(self, connection: "ConnectionIdentity") -> None:
        """Forget a connection that has ended by itself."""
        self._bound.discard(connection)

    def check(self) -> None:
        """End every connection whose identity is no longer valid."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in tuple(self._bound):
            identity = connection.identity
            if identity is not None and not self._authenticator.is_still_valid(identity):
                self._bound.discard(connection)
                connection.revoke()
            elif identity is not None:
                self.add(connection, identity)

    def _arm(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + min(max(seconds, _MIN_DELAY), _MAX_DELAY)
        if self._timer is None or due < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(due, self.check)


class ConnectionIdentity:
    """The identity of a connection's last request, and what ends with it."""

    __slots__ = ("_end_if_idle", "_revocations", "identity", "is_revoked", "on_revoked")

    def __init__(self, end_if_idle: Callable[[], None]) -> None:
        """`end_if_idle` closes the connection unless a request is being answered."""
        self.identity: Identity | None = None
        self.is_revoked = False
        self.on_revoked: Callable[[], None] | None = None  # ends what is being answered, if that may take long
        self._end_if_idle = end_if_idle
        self._revocations: Revocations | None = None

    def bind(self, identity: Identity, revocations: Revocations) -> None:
        """Note whose request is answered now."""
        is_bound = identity is self.identity and not self.is_revoked
        self.identity, self._revocations = identity, revocations
        self.is_revoked, self.on_revoked = False, None
        if not is_bound:
            revocations.add(self, identity)

    def revoke(self) -> None:
        """End the connection at once if it is idle, and what is being answered if that knows how to end."""
        self.is_revoked = True
        if self.on_revoked is not None:
            self.on_revoked()
        self._end_if_idle()

    @contextmanager
    def ended_by(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` if the identity is revoked while the block runs, or was before."""
        self.on_revoked = callback
        if self.is_revoked:
            callback()
        try:
            yield
        finally:
            self.on_revoked = None

    def raise_if_revoked(self) -> None:
        """Reject a request whose identity was revoked since it was accepted.

        Raises:
            TokenNeeded: it was.
        """
        if self.is_revoked:
            raise TokenNeeded(wrong=True)

    def release(self) -> None:
        """Note that the connection has ended."""
        if self._revocations is not None:
            self._revocations.discard(self)


REVOCATIONS: Final = web.AppKey("revocations", Revocations)
