"""Session cookies: which are valid, until when, and for which token.

Owned by the authenticator. Sessions are held in memory; the store keeps them for other processes, now or later. Of a
cookie's value, only the SHA-256 is kept. Must not know HTTP or SQL, or what a session allows.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Protocol

from shellrunner.clock import Millis, now_ms
from shellrunner.model import Session

SESSION_LIFETIME: Final = 12 * 3600  # seconds
_CLOCK_SKEW: Final = 60_000  # milliseconds by which the clock may be corrected
MAX_SESSIONS_PER_TOKEN: Final = 100  # with one more, the oldest ends
_MAX_LENGTH: Final = 1024  # characters of a cookie; ours have 43


class SessionStore(Protocol):
    """Keeps sessions. All methods may raise `StoreUnavailable`."""

    async def sessions(self) -> Sequence[Session]:
        """Return all sessions that were not ended, the oldest first."""

    async def session(self, digest: bytes) -> Session | None:
        """Return the session with this digest, unless it was ended."""

    async def change_sessions(
        self, begun: Sequence[Session], ended: Collection[bytes], ended_tokens: Collection[str] = ()
    ) -> None:
        """Delete all of some tokens; then add some, and delete others by their digests: in one commit."""


class SessionRegistry:
    """All sessions. One that is ended is invalid at once, even if the store does not know yet."""

    def __init__(self, store: SessionStore, clock: Callable[[], Millis] = now_ms) -> None:
        """Start without any; `load` reads those of earlier processes."""
        self._store, self._clock = store, clock
        self._open: dict[bytes, Session] = {}  # the oldest first
        self._ended: set[bytes] = set()  # those that the store may still have
        self._unstored: set[bytes] = set()  # those that the store may not have yet
        self._ended_tokens: dict[str, int] = {}  # the latest end of all of a token's, which the store may not know
        self._writing = asyncio.Lock()  # an end that is stored late must not end what was created after it
        self._ends = 0  # how often some were ended, or that was stored

    async def load(self) -> None:
        """Read the sessions of earlier processes.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        self._open = {session.digest: session for session in await self._store.sessions()}

    async def refresh(self) -> None:
        """Follow what other processes have changed: end what is no longer stored, and learn of what is new.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        self._ends += 1  # a session that is being read just now may be one of those that were ended
        ends, known = self._ends, self._open.keys() - self._unstored
        stored = {session.digest: session for session in await self._store.sessions()}
        for digest in known - stored.keys():
            self._open.pop(digest, None)
        if ends == self._ends:  # else one of the others may have been ended; they are found when they are used
            new = stored.keys() - self._open.keys() - self._ended
            self._open |= {digest: stored[digest] for digest in new if stored[digest].token not in self._ended_tokens}

    async def find(self, value: str) -> Session | None:
        """Return the active session whose cookie has this value, or None.

        Raises:
            StoreUnavailable: it is not known here, and the store cannot be asked.
        """
        digest = _digest(value)
        if digest is None:
            return None
        if digest not in self._open:
            await self._look_up(digest)
        return self._open.get(digest) if self.is_active(digest) else None

    async def _look_up(self, digest: bytes) -> None:
        """Read a session that another process may have created."""
        while digest not in self._ended:
            ends = self._ends
            session = await self._store.session(digest)
            if session is None or session.token in self._ended_tokens:
                return
            if ends == self._ends:  # else it may have been ended, and that stored, while it was read
                self._open[digest] = session
                return

    def is_active(self, digest: bytes) -> bool:
        """Return whether there is a session with this digest that has not expired."""
        session = self._open.get(digest)
        if session is None:
            return False
        # More than the lifetime is left if the clock was set back: then it is not known how old the session is.
        return 0 < session.expires - self._clock() <= SESSION_LIFETIME * 1000 + _CLOCK_SKEW

    async def create(self, token: str) -> str:
        """Create a session for the token with this hash; return the value of its cookie.

        Raises:
            StoreUnavailable: it cannot be stored, so it was not created.
        """
        now, value = self._clock(), secrets.token_urlsafe(32)
        session = Session(_digest(value) or b"", token, now + SESSION_LIFETIME * 1000)
        self._end(each.digest for each in self._open.values() if each.expires <= now)
        self._end(self._digests(token)[: -(MAX_SESSIONS_PER_TOKEN - 1)])
        # Added here before it is stored: what ends all sessions of the token meanwhile ends this one too.
        self._open[session.digest] = session
        self._unstored.add(session.digest)
        try:
            await self._write([session])
        except BaseException:
            self._end([session.digest])
            raise
        finally:
            self._unstored.discard(session.digest)
        return value

    def seconds_left(self, digest: bytes) -> float:
        """Return in how many seconds the session with this digest expires; 0 if there is none."""
        session = self._open.get(digest)
        return 0.0 if session is None else (session.expires - self._clock()) / 1000

    def end_all(self, token: str) -> None:
        """End all sessions of the token with this hash, in memory; `flush` also those that only the store knows."""
        self._ends += 1
        self._ended_tokens[token] = self._ends
        self._end(self._digests(token))

    def end_all_except(self, tokens: Collection[str]) -> None:
        """End all expired sessions and those of all tokens but these, in memory; `flush` writes that to the store."""
        now = self._clock()
        self._end(each.digest for each in self._open.values() if each.expires <= now or each.token not in tokens)

    async def flush(self) -> None:
        """Write to the store which sessions were ended.

        Raises:
            StoreUnavailable: it could not be written; the next change tries again.
        """
        if self._ended or self._ended_tokens:
            await self._write([])

    def _digests(self, token: str) -> list[bytes]:
        return [session.digest for session in self._open.values() if session.token == token]

    def _end(self, digests: Iterable[bytes]) -> None:
        for digest in list(digests):
            self._ended.add(digest)
            self._ends += 1
            self._open.pop(digest, None)

    async def _write(self, begun: Sequence[Session]) -> None:
        async with self._writing:
            ended, tokens = frozenset(self._ended), dict(self._ended_tokens)
            if begun or ended or tokens:  # else the write before has stored it
                await self._store.change_sessions(begun, ended, tokens)
            self._ended -= ended
            for token, end in tokens.items():
                if self._ended_tokens[token] == end:  # else all have ended once more meanwhile
                    del self._ended_tokens[token]
            self._ends += 1  # what was read before this commit may be one of those


def _digest(cookie: str) -> bytes | None:
    """Return the SHA-256 of a cookie, or None if it cannot be one of ours: empty, too long, or not ASCII."""
    if not cookie or len(cookie) > _MAX_LENGTH or not cookie.isascii():
        return None
    return hashlib.sha256(cookie.encode()).digest()
