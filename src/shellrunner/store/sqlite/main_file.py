"""What `history.db` says by itself, without the WAL beside it, and a WAL that is not its own.

Used by `opening`, before SQLite opens the history. SQLite applies whatever WAL lies beside a database: after a crash,
a `history.db` that was restored from a backup would be overwritten with pages of the newer one, and be corrupt.
"""

import os
import sqlite3
import time
from contextlib import closing, suppress
from typing import Final, NamedTuple
from urllib.parse import quote

from shellrunner.store.state_files.high_water import HighWater
from shellrunner.store.state_files.home import file_identity

_META: Final = "SELECT key, value FROM meta WHERE key IN ('history', 'generation')"


class MainFile(NamedTuple):
    """The history's id and generation, as far as they are checkpointed."""

    history: str
    generation: int


def read(path: str) -> MainFile | None:
    """Return what the file says; None if there is none, or it is damaged or of another kind."""
    # An immutable database is read without locks and without its WAL (sqlite.org/c3ref/open.html).
    return None if is_empty(path) else _read(path, "mode=ro&immutable=1")


def has_foreign_wal(path: str, main: MainFile, mark: HighWater) -> bool:
    """Return whether the WAL beside the file is that of the newer one which the high-water mark speaks of.

    It is not if it was put back together with the file.
    """
    if is_empty(f"{path}-wal"):
        return False
    if mark.database != file_identity(path) and mark.wal == file_identity(f"{path}-wal"):
        return True
    both = _read(path, "mode=ro")  # a connection that cannot write never checkpoints
    if both is None or both.history != main.history:
        return True
    return main.generation < mark.checkpointed <= both.generation


def _read(path: str, parameters: str) -> MainFile | None:
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?{parameters}", uri=True)) as db:
            meta = dict(db.execute(_META).fetchall())
        return MainFile(str(meta["history"]), int(meta.get("generation", 0)))
    except (sqlite3.Error, KeyError, ValueError):
        return None


def is_empty(path: str) -> bool:
    """Return whether there is no file, or nothing in it."""
    try:
        return os.stat(path, follow_symlinks=False).st_size == 0
    except FileNotFoundError:
        return True


def set_wal_aside(path: str) -> str | None:
    """Rename the WAL beside the file, so that SQLite does not apply it; return its new name (None: no WAL)."""
    aside = None
    if not is_empty(f"{path}-wal"):
        aside = f"{path}-wal.{time.time_ns()}"
        os.rename(f"{path}-wal", aside)
    for name in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.unlink(path + name)
    return aside
