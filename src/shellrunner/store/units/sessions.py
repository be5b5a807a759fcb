"""Sessions as rows: kept across restarts.

Units of the store. Must not know what a session permits, or when it expires.
"""

from collections.abc import Iterable

from shellrunner.model import Session
from shellrunner.store.columns import columns, placeholders
from shellrunner.store.db import Db

# ruff: noqa: S608  every statement here is put together from constants of this program

_ALL = f"SELECT {columns(Session)} FROM sessions ORDER BY expires, digest"
_ONE = f"SELECT {columns(Session)} FROM sessions WHERE digest = ?"
_ADD = f"INSERT INTO sessions ({columns(Session)}) VALUES ({placeholders(Session)})"


def read(db: Db) -> list[Session]:
    """Return the sessions that were begun and not ended, the oldest first."""
    return [Session(*row) for row in db.execute(_ALL)]


def find(db: Db, digest: bytes) -> Session | None:
    """Return the session with this digest, if it was begun and not ended."""
    row = db.execute(_ONE, (digest,)).fetchone()
    return None if row is None else Session(*row)


def change(db: Db, begun: Iterable[Session], ended: Iterable[bytes], ended_tokens: Iterable[str]) -> None:
    """End all sessions of some tokens; then begin some sessions, and end others by their digests."""
    db.executemany("DELETE FROM sessions WHERE token = ?", [(token,) for token in ended_tokens])
    db.executemany(_ADD, begun)
    db.executemany("DELETE FROM sessions WHERE digest = ?", [(digest,) for digest in ended])
