"""Sealing what an earlier version stored as it was: values of jobs that are not done, and digests of requests.

Used by `opening`, once for each history, before anything runs. What an earlier version has deleted may still be in
free pages, so the file is rebuilt. `meta` says how far this has come: nothing, `sealed`, `clean`.
"""

import logging
import sqlite3
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.sealing import sealed_text
from shellrunner.sealing.digest_key import DigestKey
from shellrunner.sealing.key_files import KeyFiles

_log = logging.getLogger("shellrunner.store")

_META: Final = "secrets"
_SET: Final = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
HAVE_SECRETS: Final = """SELECT id FROM jobs INDEXED BY jobs_undone WHERE state != 'done' AND secrets IS NOT NULL"""


def mark_clean(db: sqlite3.Connection) -> None:
    """Note that a history never had anything to seal."""
    db.execute(_SET, (_META, "clean"))


def progress(db: sqlite3.Connection) -> str:
    """Return `sealed`, `clean`, or nothing."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_META,)).fetchone()
    return str(row[0]) if row else ""


def upgrade(db: sqlite3.Connection, files: KeyFiles, digests: DigestKey) -> None:
    """Seal what is not sealed yet, and rebuild the file. Without the space for it the service starts all the same.

    Raises:
        sqlite3.OperationalError: it was interrupted.
    """
    found = progress(db)
    try:
        if not found:
            _seal(db, files, digests)
        if found != "clean":
            _rebuild(db)
    except (sqlite3.Error, OSError, ImportError, StoreUnavailable) as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            raise
        _log.warning(
            "secrets of jobs that an earlier version accepted may still be readable in the history: this start could "
            "not seal them; the next one tries again",
            extra={"reason": getattr(error, "strerror", None) or str(error)},
        )


def drop_plain_text(db: sqlite3.Connection) -> None:
    """Remove what is not sealed from a copy of a history, so that no backup contains it."""
    if progress(db):
        return
    db.execute("UPDATE jobs SET secrets = ? WHERE secrets IS NOT NULL", (sealed_text.REMOVED,))
    db.execute("DELETE FROM keys")  # a hash of a body gives away a short secret in it
    mark_clean(db)


def _seal(db: sqlite3.Connection, files: KeyFiles, digests: DigestKey) -> None:
    jobs = [job_id for (job_id,) in db.execute(HAVE_SECRETS).fetchall()]
    if jobs:
        sealed_text.load_cipher()
    keys = files.create(len(jobs)) if jobs else []
    db.execute("BEGIN IMMEDIATE")
    try:
        for job_id, key in zip(jobs, keys, strict=True):
            (stored,) = db.execute("SELECT secrets FROM jobs WHERE id = ?", (job_id,)).fetchone()
            sealed = sealed_text.seal(stored, key, job_id)
            db.execute("UPDATE jobs SET secrets = ? WHERE id = ?", (sealed, job_id))
        for identity, name, digest in db.execute("SELECT identity, key, digest FROM keys").fetchall():
            keyed = digests.apply_now(digest)
            db.execute("UPDATE keys SET digest = ? WHERE identity = ? AND key = ?", (keyed, identity, name))
        db.execute(_SET, (_META, "sealed"))
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.rollback()
            files.destroy([key.name for key in keys])
    if jobs:
        _log.info("secrets of waiting jobs were sealed", extra={"jobs": len(jobs)})


def _rebuild(db: sqlite3.Connection) -> None:
    """Leave nothing of deleted rows in the file, and nothing of earlier pages in the WAL."""
    # In a temporary file, which is gone once it is closed: a copy of a large history does not fit into memory.
    db.execute("PRAGMA temp_store=FILE")
    try:
        db.execute("VACUUM")
    finally:
        db.execute("PRAGMA temp_store=MEMORY")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    mark_clean(db)
