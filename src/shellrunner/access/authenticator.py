"""The authenticator: turns a token, a session cookie or a peer's uid into an identity, or rejects it.

Built by the composition root; asked by the security middleware and by open streams. Must not know HTTP or SQL, or
what a route needs.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from shellrunner.access import Identity, service_user
from shellrunner.access.request_rate import RequestRates
from shellrunner.access.session_registry import SessionRegistry, SessionStore
from shellrunner.access.throttle import Throttle
from shellrunner.access.token_lookup import Tokens
from shellrunner.config import AuthSettings
from shellrunner.errors import NotThisUser, SessionsOff, TokenNeeded, TooManyWrongTokens

_HELP: Final = (
    "To admit others, or requests through a proxy, create a token: `shellrunner token create NAME` prints the lines"
    " for auth.tokens"
)


def _now() -> datetime:
    return datetime.now(UTC)


async def open_authenticator(auth: AuthSettings, store: SessionStore) -> "Authenticator":
    """Build an authenticator that knows the sessions of earlier processes.

    Raises:
        StoreUnavailable: they cannot be read.
    """
    sessions = SessionRegistry(store)
    await sessions.load()
    return Authenticator(auth, sessions)


class Authenticator:
    """Decides which clients may connect, and with which identity."""

    def __init__(
        self,
        auth: AuthSettings,
        sessions: SessionRegistry,
        throttle: Throttle | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Admit what `auth` configures; `clock` decides about expiry."""
        self._sessions = sessions
        self._throttle = throttle or Throttle()
        self._rates = RequestRates()
        self._clock = clock
        self._uid = os.geteuid()
        self._service_users = tuple(service_user(self._uid, on_unix_socket=is_unix) for is_unix in (False, True))
        self._needs_token = False
        self.on_change: Callable[[], None] = lambda: None  # called when an identity may have become invalid
        self.reload(auth)

    def reload(self, auth: AuthSettings) -> None:
        """Admit what `auth` configures from now on; end the sessions of all other tokens, and what is open."""
        self._tokens = Tokens(auth.tokens)
        self._rates.configure(auth.tokens)
        # It stays true when the last token is removed. Its removal is meant to lock somebody out; behind a proxy of
        # the same user, falling back to the peer's uid would admit everybody instead. A restart, which checks the
        # addresses too, may fall back.
        self._needs_token = self._needs_token or bool(self._tokens)
        self._has_sessions = auth.session_cookie
        self._sessions.end_all_except({token.hash for token in auth.tokens} if auth.session_cookie else ())
        self.on_change()

    async def flush_sessions(self) -> None:
        """Write to the store which sessions were ended, so that they do not come back in another process.

        Raises:
            StoreUnavailable: it could not be written; the next change tries again.
        """
        await self._sessions.flush()

    @property
    def needs_token(self) -> bool:
        """Whether tokens are configured, or were since the start."""
        return self._needs_token

    def authenticate_token(self, secret: str, source: str) -> Identity:
        """Return the identity of a token. Wrong ones are counted for `source`, an address or `uid:N`.

        Raises:
            TokenNeeded: it is wrong, or has expired.
            TooManyWrongTokens: the same, after too many others from this source.
        """
        identity = self._unless_expired(self._tokens.find(secret))
        if identity is not None:
            return identity
        if seconds := self._throttle.record_failure(source):
            raise TooManyWrongTokens(seconds)
        raise TokenNeeded(wrong=True)

    async def authenticate_session(self, cookie: str) -> Identity | None:
        """Return the identity of a session cookie, which may read only; None if it, or its token, is not valid.

        Raises:
            StoreUnavailable: the session is not known here, and the store cannot be asked.
        """
        session = await self._sessions.find(cookie)
        identity = self._unless_expired(self._tokens.find_by_hash(session.token)) if session else None
        if session is None or identity is None or "read" not in identity.scopes:
            return None
        return Identity(identity.name, frozenset({"read"}), identity.token, session.digest)

    def count_request(self, identity: Identity) -> None:
        """Count a request of an identity against the rate of its token.

        Raises:
            TooManyRequests: it has sent too many.
        """
        if identity.token is not None and identity.token.requests_per_second is not None:
            self._rates.take(identity.token)

    def authenticate_uid(self, uid: int | None, *, on_unix_socket: bool = False) -> Identity:
        """Return the identity of a process of the service's own user; None: the kernel could not name the uid.

        Raises:
            NotThisUser: the process belongs to another user, or the owner is not known.
        """
        if uid == self._uid:
            return self._service_users[on_unix_socket]
        owner = f"this one has the uid {uid}"
        if uid is None:
            owner = "the owner of this connection could not be determined, or a header says that a proxy forwarded it"
        raise NotThisUser(f"without a token only processes of the service's user may connect; {owner}. {_HELP}")

    def is_still_valid(self, identity: Identity) -> bool:
        """Return whether an identity would be admitted again now, with no fewer scopes and nothing else changed."""
        if identity.token is None:
            return identity.on_unix_socket or not self._needs_token
        current = self._unless_expired(self._tokens.find_by_hash(identity.token.hash))
        if current is None or not identity.scopes <= current.scopes or not _is_as_before(identity, current):
            return False
        return identity.session is None or self._sessions.is_active(identity.session)

    def seconds_left(self, identity: Identity) -> float | None:
        """Return in how many seconds the identity's token or session expires, whichever is first; None: never."""
        expires = identity.token.expires if identity.token else None
        left = [] if expires is None else [(expires - self._clock()).total_seconds()]
        if identity.session is not None:
            left.append(self._sessions.seconds_left(identity.session))
        return min(left, default=None)

    async def create_session(self, identity: Identity) -> str:
        """Create a session for the identity's token; return the value of its cookie.

        Raises:
            SessionsOff: the configuration does not allow sessions.
            StoreUnavailable: it cannot be stored, so it was not created.
        """
        if identity.token is None or not self._has_sessions:
            raise SessionsOff
        try:
            return await self._sessions.create(identity.token.hash)
        finally:
            self.on_change()  # with one too many, the oldest has ended

    async def end_sessions(self, identity: Identity) -> None:
        """End all sessions of the identity's token.

        Raises:
            StoreUnavailable: they are invalid, but would be valid again in the next process: try again.
        """
        if identity.token is not None:
            self._sessions.end_all(identity.token.hash)
            self.on_change()
            await self._sessions.flush()

    async def refresh_sessions(self) -> None:
        """End what is open for sessions that another process has ended.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        await self._sessions.refresh()
        self.on_change()

    def _unless_expired(self, identity: Identity | None) -> Identity | None:
        if identity is not None and identity.token is not None and identity.token.is_expired(self._clock()):
            return None
        return identity


def _is_as_before(identity: Identity, current: Identity) -> bool:
    """Return whether a token has the settings with which it was accepted, except for its scopes and its expiry.

    Another user, fewer commands or networks: which change allows less is not for this place to know, so any counts.
    """
    before, after = identity.token, current.token
    if before is None or after is None or before == after:
        return before == after
    return before.model_copy(update={"scopes": after.scopes, "expires": after.expires}) == after
