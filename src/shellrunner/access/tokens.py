"""Which token it is that somebody shows: its SHA-256 is compared with every one that config has.

Owned by the door. Must not know where it came from, or what it is good for.
"""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from shellrunner.access import Identity
from shellrunner.config import Token

_LONGEST: Final = 1024  # characters; ours have 47


class Tokens:
    """The tokens that there are, each with whom it makes of whoever has it."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        """Take these; their hashes are all different."""
        self._known = {bytes.fromhex(token.sha256): _identity(token) for token in tokens}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._known)

    def find(self, text: str) -> Identity | None:
        """Whoever has this token; it may have expired."""
        digest = secret_digest(text)
        found = None
        if digest is not None:
            for known, holder in self._known.items():  # all of them, always: the time tells nothing about any
                if hmac.compare_digest(known, digest):
                    found = holder
        return found

    def find_by_hash(self, sha256: str) -> Identity | None:
        """Whoever has the token with this hash; it may have expired."""
        return self._known.get(bytes.fromhex(sha256))


def secret_digest(secret: str) -> bytes | None:
    """The SHA-256 of a secret as it was shown; None for what is none of ours: empty, endless, or not ASCII."""
    if not secret or len(secret) > _LONGEST or not secret.isascii():
        return None
    return hashlib.sha256(secret.encode()).digest()


def _identity(token: Token) -> Identity:
    return Identity(f"token:{token.name}", frozenset(token.scopes), token)
