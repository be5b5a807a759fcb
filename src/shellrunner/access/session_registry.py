"""Sessions: which cookies let somebody watch, until when, and in the name of which token.

Owned by the door. All of them are here, and the history keeps them for the next process; of a cookie's value nobody
keeps more than the SHA-256. Must not know HTTP or SQL, or what a session is good for.
"""

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Protocol

from shellrunner.access.tokens import secret_digest
from shellrunner.clock import Millis, now_ms
from shellrunner.model import Session

SESSION_LIFETIME: Final = 12 * 3600  # seconds
MAX_SESSIONS_PER_TOKEN: Final = 100  # of one token; with one more, its oldest ends


class SessionStore(Protocol):
    """Where sessions are kept. May raise `StoreUnavailable`."""

    async def sessions(self) -> Sequence[Session]:
        """Return those that were begun and not ended, the oldest first."""

    async def change_sessions(self, begun: Sequence[Session], ended: Collection[bytes]) -> None:
        """Begin some and end others, which are named by their digests, in one commit."""


class SessionRegistry:
    """The sessions that there are. What is ended is over at once, also if the history cannot be told of it yet."""

    def __init__(self, keeping: SessionStore, clock: Callable[[], Millis] = now_ms) -> None:
        """Know of none yet: see `restore`."""
        self._keeping, self._clock = keeping, clock
        self._open: dict[bytes, Session] = {}  # the oldest first
        self._ended: set[bytes] = set()  # those that the history may still have

    async def load(self) -> None:
        """Know those of earlier processes again."""
        self._open = {session.digest: session for session in await self._keeping.sessions()}

    def find(self, value: str) -> Session | None:
        """The session whose cookie has this value, unless it is over."""
        digest = secret_digest(value)
        return self._open.get(digest) if digest is not None and self.is_active(digest) else None

    def is_active(self, digest: bytes) -> bool:
        """Whether the session with this digest is there, and not over."""
        session = self._open.get(digest)
        return session is not None and session.expires > self._clock()

    async def create(self, token: str) -> str:
        """Begin a session of this token; the value of its cookie.

        Raises:
            StoreUnavailable: it cannot be kept, so there is none.
        """
        now, value = self._clock(), secrets.token_urlsafe(32)
        session = Session(secret_digest(value) or b"", token, now + SESSION_LIFETIME * 1000)
        self._end(each.digest for each in self._open.values() if each.expires <= now)
        self._end(self._of(token)[: -(MAX_SESSIONS_PER_TOKEN - 1)])
        # Here before it is there: whatever ends all sessions of the token meanwhile ends this one too.
        self._open[session.digest] = session
        try:
            await self._tell([session])
        except BaseException:
            self._end([session.digest])
            raise
        return value

    async def end_all(self, token: str) -> None:
        """End all sessions of this token.

        Raises:
            StoreUnavailable: they are over, but would come back with another process: try again.
        """
        self._end(self._of(token))
        await self.flush()

    def end_all_except(self, tokens: Collection[str]) -> None:
        """End what is over anyway, and all sessions of other tokens than these; `settle` makes that last."""
        now = self._clock()
        self._end(each.digest for each in self._open.values() if each.expires <= now or each.token not in tokens)

    async def flush(self) -> None:
        """Tell the history of what was ended.

        Raises:
            StoreUnavailable: it does not know yet; the next change tells it again.
        """
        if self._ended:
            await self._tell([])

    def _of(self, token: str) -> list[bytes]:
        return [session.digest for session in self._open.values() if session.token == token]

    def _end(self, digests: Iterable[bytes]) -> None:
        for digest in list(digests):
            self._ended.add(digest)
            self._open.pop(digest, None)

    async def _tell(self, begun: Sequence[Session]) -> None:
        ended = frozenset(self._ended)
        await self._keeping.change_sessions(begun, ended)
        self._ended -= ended
