"""The door: whoever shows a token, a session or the kernel's word on who they are is let in by it, or is not.

Built by the composition root, asked by the gate and by open streams. Must not know HTTP or SQL, or what routes need.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from shellrunner.access import Identity, service_user
from shellrunner.access.session_registry import SessionRegistry, SessionStore
from shellrunner.access.throttle import Throttle
from shellrunner.access.tokens import Tokens
from shellrunner.config import AuthSettings
from shellrunner.errors import NotThisUser, SessionsOff, TokenNeeded, TooManyWrongTokens

_HELP: Final = (
    "To let in others, or what comes through a proxy, make a token: `shellrunner token create NAME` prints the lines "
    "for auth.tokens"
)


def _now() -> datetime:
    return datetime.now(UTC)


async def open_authenticator(auth: AuthSettings, keeping: SessionStore) -> "Authenticator":
    """Build the door, with the sessions that were begun before and may go on.

    Raises:
        StoreUnavailable: they cannot be read.
    """
    sessions = SessionRegistry(keeping)
    await sessions.load()
    return Authenticator(auth, sessions)


class Authenticator:
    """Knows who may come in, and as whom."""

    def __init__(
        self,
        auth: AuthSettings,
        sessions: SessionRegistry,
        throttle: Throttle | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Let in whom `auth` names. The clock is for expiry; the throttle hears of wrong tokens only."""
        self._sessions = sessions
        self._throttle = throttle or Throttle()
        self._clock = clock
        self._uid = os.geteuid()
        self._needs_token = False
        self.reload(auth)

    def reload(self, auth: AuthSettings) -> None:
        """Let in whom `auth` names from now on; the sessions of all other tokens are over."""
        self._tokens = Tokens(auth.tokens)
        # Whoever takes the last token away means to shut somebody out; behind a proxy of the same user, going by the
        # kernel's word instead would let everybody in. A restart, which looks at the addresses too, may do so.
        self._needs_token = self._needs_token or bool(self._tokens)
        self._has_sessions = auth.session_cookie
        self._sessions.end_all_except({token.sha256 for token in auth.tokens} if auth.session_cookie else ())

    async def flush_sessions(self) -> None:
        """Make it last that sessions are over: else they would come back with their token, in another process.

        Raises:
            StoreUnavailable: it could not be written, and will be with the next change.
        """
        await self._sessions.flush()

    @property
    def needs_token(self) -> bool:
        """Whether tokens are configured, or were since the start."""
        return self._needs_token

    def authenticate_token(self, presented: str, source: str) -> Identity:
        """Let in whoever shows this token. `source`, an address or `uid:N`, answers for wrong ones.

        Raises:
            TokenNeeded: it is wrong, or has expired.
            TooManyWrongTokens: and so were too many before it.
        """
        holder = self._unless_expired(self._tokens.find(presented))
        if holder is not None:
            return holder
        if seconds := self._throttle.record_failure(source):
            raise TooManyWrongTokens(seconds)
        raise TokenNeeded(wrong=True)

    def authenticate_session(self, cookie: str) -> Identity | None:
        """Let in whoever shows a session's cookie, to watch: as long as its token may read."""
        session = self._sessions.find(cookie)
        holder = self._unless_expired(self._tokens.find_by_hash(session.token)) if session else None
        if session is None or holder is None or "read" not in holder.scopes:
            return None
        return Identity(holder.name, frozenset({"read"}), holder.token, session.digest)

    def authenticate_uid(self, uid: int | None) -> Identity:
        """Let in processes of the service's own user; None is a process that the kernel cannot name.

        Raises:
            NotThisUser: it is another's, or cannot be told.
        """
        if uid == self._uid:
            return service_user(uid)
        whose = "whose this is cannot be told" if uid is None else f"this is one of uid {uid}"
        raise NotThisUser(f"only processes of the service's own user are served, and {whose}. {_HELP}")

    def is_still_valid(self, identity: Identity) -> bool:
        """Whether somebody who was let in would be let in again, to do as much as then."""
        if identity.token is None:
            return True
        holder = self._unless_expired(self._tokens.find_by_hash(identity.token.sha256))
        if holder is None or not identity.scopes <= holder.scopes:
            return False
        return identity.session is None or self._sessions.is_active(identity.session)

    async def create_session(self, identity: Identity) -> str:
        """Begin a session in the name of a token; the value of its cookie.

        Raises:
            SessionsOff: config allows none.
            StoreUnavailable: it cannot be kept, so there is none.
        """
        if identity.token is None or not self._has_sessions:
            raise SessionsOff
        return await self._sessions.create(identity.token.sha256)

    async def end_sessions(self, identity: Identity) -> None:
        """End all sessions of a token.

        Raises:
            StoreUnavailable: they are over, but would come back with another process: try again.
        """
        if identity.token is not None:
            await self._sessions.end_all(identity.token.sha256)

    def _unless_expired(self, holder: Identity | None) -> Identity | None:
        is_expired = holder is not None and holder.token is not None and holder.token.is_expired(self._clock())
        return None if is_expired else holder
