"""The secrets of a claimed job, unsealed with the key that is in the database for as long as the job is not done.

Used by `claims`, and for the key of Idempotency-Keys' digests. Must not know connections.
"""

import hmac
import secrets
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim
from shellrunner.sealing import sealed_text
from shellrunner.sealing.key_files import KEY_SIZE, JobKey, KeyUnusable
from shellrunner.store.columns import ClaimRow
from shellrunner.store.db import Db
from shellrunner.store.rows import to_claim

_FIND_KEY: Final = "SELECT key FROM job_keys WHERE name = ?"
_DIGEST_KEY: Final = "idempotency"
_MAKE_KEY: Final = "INSERT INTO job_keys (name, key) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"


def create_key() -> JobKey:
    """Return a new key, for one job."""
    return JobKey(secrets.token_hex(16), secrets.token_bytes(KEY_SIZE))


def to_claim_with_secrets(db: Db, row: ClaimRow, stored: str | None) -> Claim:
    """Return the claim with its secrets.

    Raises:
        StoreUnavailable: the row is damaged, or its secrets cannot be read.
    """
    if stored is not None and sealed_text.has_text(stored):
        name = sealed_text.key_name(stored)
        key = None if name is None else db.execute(_FIND_KEY, (name,)).fetchone()
        if key is None:
            raise KeyUnusable("the key is missing (dumps contain no keys)")
        return to_claim(row, sealed_text.unseal(stored, bytes(key[0]), row.id))
    claim = to_claim(row)
    if claim.spec.env or claim.spec.has_text():  # names without values
        raise StoreUnavailable(f"the row of job {row.id} in the history lacks the values that it was submitted with")
    return claim


def digest_key(db: Db) -> bytes:
    """Return the key of the digests beside Idempotency-Keys, which all nodes share; make it if there is none."""
    db.execute(_MAKE_KEY, (_DIGEST_KEY, secrets.token_bytes(KEY_SIZE)))
    ((key,),) = db.execute(_FIND_KEY, (_DIGEST_KEY,)).fetchall()
    return bytes(key)


def keyed_digest(key: bytes, digest: bytes) -> bytes:
    """Return a digest that nobody can compute who has not the key."""
    return hmac.digest(key, digest, "sha256")
