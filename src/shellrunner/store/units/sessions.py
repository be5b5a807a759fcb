"""Sessions, as rows: kept over restarts.

Units for a lane, used by the store. Must not know what a session is good for, or when it is over.
"""

import sqlite3
from collections.abc import Iterable

from shellrunner.model import Session


def read(db: sqlite3.Connection) -> list[Session]:
    """Those that were begun and not ended, the oldest first."""
    rows = db.execute("SELECT digest, token, expires FROM sessions ORDER BY expires, digest")
    return [Session(*row) for row in rows]


def change(db: sqlite3.Connection, begun: Iterable[Session], ended: Iterable[bytes]) -> None:
    """Begin some and end others."""
    db.executemany("INSERT INTO sessions (digest, token, expires) VALUES (?, ?, ?)", begun)
    db.executemany("DELETE FROM sessions WHERE digest = ?", [(digest,) for digest in ended])
