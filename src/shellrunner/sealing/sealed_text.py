"""Sealing a text with a job's key, or what is typed into it: ChaCha20-Poly1305 (RFC 8439), bound to the job's id.

    sealed1:NAME OF THE KEY:base64(nonce, ciphertext, tag)
    input1:NAME OF THE KEY:                                     no text, but a key for what is typed

Rows of earlier versions have the text itself, which is a JSON object. Must not know files.
"""

import json
import os
from base64 import b64decode, b64encode
from typing import Any, Final

from shellrunner.sealing.key_files import JobKey, KeyUnusable

_FORMAT: Final = "sealed1"
_KEY_ONLY: Final = "input1"
_NONCE_SIZE: Final = 12  # bytes
REMOVED: Final = "removed"  # instead of a plain text, which no backup contains


def load_cipher() -> None:
    """Import the cipher, which takes longer than all the rest: once, and before a transaction has begun.

    Raises:
        ImportError: the installation is damaged.
    """
    import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401, PLC0415  only for jobs with secrets


def seal(text: str, key: JobKey, job_id: int) -> str:
    """Return the text as only this key can read it, and only for this job."""
    # A unit may run again after a rollback, with the same key and for another id: so each time another nonce.
    nonce = os.urandom(_NONCE_SIZE)
    sealed = _cipher(key.secret).encrypt(nonce, text.encode(), _context(job_id))
    return f"{_FORMAT}:{key.name}:{b64encode(nonce + sealed).decode()}"


def key_name(stored: str) -> str | None:
    """Return the name of the key with which this was sealed; None if it is not sealed."""
    kind, _, rest = stored.partition(":")
    return rest.partition(":")[0] if kind == _FORMAT else None


def key_only(key: JobKey) -> str:
    """Return what names a key with which no text is sealed."""
    return f"{_KEY_ONLY}:{key.name}:"


def has_text(stored: str) -> bool:
    """Return whether this is more than the name of a key."""
    return not stored.startswith(f"{_KEY_ONLY}:")


def is_plain(stored: str) -> bool:
    """Return whether this is the text itself, as an earlier version stored it."""
    return stored.startswith("{")


def unseal(stored: str, secret: bytes, job_id: int) -> dict[str, Any]:
    """Return the values, which were sealed for this job with the key that has this `secret`.

    Raises:
        KeyUnusable: it is another key, or was sealed for another job, or is damaged.
    """
    _, name, content = stored.split(":")
    try:
        sealed = b64decode(content, validate=True)
        text = _cipher(secret).decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], _context(job_id))
    except Exception as error:
        if isinstance(error, ImportError | MemoryError):
            raise
        raise KeyUnusable(f"what was sealed with the key {name} does not fit it") from None
    return parse(text)


def seal_input(data: bytes, secret: bytes, job_id: int) -> bytes:
    """Return what is typed into a job as only the key with this `secret` can read it."""
    nonce = os.urandom(_NONCE_SIZE)
    return nonce + bytes(_cipher(secret).encrypt(nonce, data, _input_context(job_id)))


def unseal_input(sealed: bytes, secret: bytes, job_id: int) -> bytes:
    """Return what is typed into a job.

    Raises:
        KeyUnusable: it was sealed with another key, or for another job, or is damaged.
    """
    try:
        return bytes(_cipher(secret).decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], _input_context(job_id)))
    except Exception as error:
        if isinstance(error, ImportError | MemoryError):
            raise
        raise KeyUnusable("the input was sealed with another key") from None


def parse(text: str | bytes) -> dict[str, Any]:
    """Return the values in an unsealed text.

    Raises:
        KeyUnusable: there are none.
    """
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise KeyUnusable("they are damaged")
    return values


def _cipher(secret: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415  see load_cipher

    return ChaCha20Poly1305(secret)


def _context(job_id: int) -> bytes:
    return f"shellrunner: env and stdin of job {job_id}".encode()


def _input_context(job_id: int) -> bytes:
    return f"shellrunner: input of job {job_id}".encode()
