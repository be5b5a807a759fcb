"""Lookup of a presented token: its SHA-256 is compared with all configured ones, in constant time.

Owned by the authenticator. Must not know where a token came from, or what it allows.
"""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from shellrunner.access import Identity
from shellrunner.config import Token

_MAX_LENGTH: Final = 1024  # characters of a secret; ours have 47


class Tokens:
    """The configured tokens, each with its identity."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        """Index the tokens, whose hashes are all different."""
        self._identities = {bytes.fromhex(token.sha256): _identity(token) for token in tokens}

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._identities)

    def find(self, secret: str) -> Identity | None:
        """Return the identity of the token with this secret, which may have expired, or None."""
        digest = secret_digest(secret)
        found = None
        if digest is not None:
            for known, identity in self._identities.items():  # always all of them: the time must not reveal any
                if hmac.compare_digest(known, digest):
                    found = identity
        return found

    def find_by_hash(self, sha256: str) -> Identity | None:
        """Return the identity of the token with this hash, in hex, which may have expired, or None."""
        return self._identities.get(bytes.fromhex(sha256))


def secret_digest(secret: str) -> bytes | None:
    """Return the SHA-256 of a secret, or None if it cannot be one of ours: empty, too long, or not ASCII."""
    if not secret or len(secret) > _MAX_LENGTH or not secret.isascii():
        return None
    return hashlib.sha256(secret.encode()).digest()


def _identity(token: Token) -> Identity:
    return Identity(f"token:{token.name}", frozenset(token.scopes), token)
