"""Lookup of a presented token: its hash is compared with all configured ones, in constant time.

Owned by the authenticator. Must not know where a token came from, or what it allows.
"""

import hmac
from collections.abc import Iterable

from shellrunner.access import Identity
from shellrunner.config import Token
from shellrunner.config.token_hash import hash_secret, is_secret


class Tokens:
    """The configured tokens, each with its identity."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        """Index the tokens, whose hashes are all different."""
        self._identities = {token.hash: _identity(token) for token in tokens}

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._identities)

    def find(self, secret: str) -> Identity | None:
        """Return the identity of the token with this secret, which may have expired, or None."""
        if not is_secret(secret):  # too short, say: not even a configuration with its hash admits it
            return None
        found, presented = None, hash_secret(secret)
        for known, identity in self._identities.items():  # always all of them: the time must not reveal any
            if hmac.compare_digest(known, presented):
                found = identity
        return found

    def find_by_hash(self, token_hash: str) -> Identity | None:
        """Return the identity of the token with this hash, which may have expired, or None."""
        return self._identities.get(token_hash)


def _identity(token: Token) -> Identity:
    return Identity(token.identity, frozenset(token.scopes), token)
