"""Which keys there are when a history is opened, and which of them a job still needs.

Used by `opening`. A crash between the write of a key and the commit of its job leaves one that no job needs, and so
does one between an end and the removal of its key: they are destroyed. A history that is held may be the wrong one,
so the keys that it does not know stay until an admin resumes.
"""

import logging
import sqlite3
from dataclasses import dataclass, field
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.sealing import sealed_text
from shellrunner.sealing.digest_key import DigestKey
from shellrunner.sealing.key_files import KeyFiles
from shellrunner.store.sqlite.secrets_upgrade import HAVE_SECRETS

_log = logging.getLogger("shellrunner.store")

_MAX_LOGGED: Final = 20  # ids of jobs


@dataclass
class KeyInventory:
    """in_use: the names of the keys of jobs that are not done. unused: those that a held history does not know."""

    files: KeyFiles
    digests: DigestKey
    in_use: dict[int, str] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)

    def take(self, db: sqlite3.Connection, *, held: bool) -> None:
        """Compare keys and jobs; destroy the keys that no job needs, unless the history is held.

        Raises:
            StoreUnavailable: a job has secrets, and the cipher is not installed.
        """
        for (job_id,) in db.execute(HAVE_SECRETS).fetchall():
            (stored,) = db.execute("SELECT secrets FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if name := sealed_text.key_name(stored):
                self.in_use[job_id] = name
        if self.in_use:
            _require_cipher()
        found = self.files.names()
        unused = found - set(self.in_use.values())
        if held:
            self.unused = unused
        elif unused:
            self.files.destroy(unused)
            _log.info("removed keys that belong to no waiting or running job", extra={"keys": len(unused)})
        if missing := sorted(job_id for job_id, name in self.in_use.items() if name not in found):
            _log.warning(
                "the keys of these jobs are missing, so they will fail to start: submit them again",
                extra={"jobs": missing[:_MAX_LOGGED], "number": len(missing)},
            )


def _require_cipher() -> None:
    """Load the cipher before anything runs: without it, no job behind one with secrets could be claimed either.

    Raises:
        StoreUnavailable: it cannot be loaded.
    """
    try:
        sealed_text.load_cipher()
    except ImportError as error:
        raise StoreUnavailable(f"jobs have secrets, and the package cryptography is unusable: {error}") from error
