"""Hashes of tokens, as the configuration has them: `shellrunner1:` and 64 hex digits.

A token is what `shellrunner token create` makes. The hash is the SHA-256 of a text that is ours alone and the token,
so that no SHA-256 that was made elsewhere (of a password, of a file) is the hash of a token, and no hash of ours
helps there. Standard library only. Must not know what a token allows.
"""

import hashlib
import re
import secrets
from typing import Final

from shellrunner import ascii_text

# The number is that of the scheme: what is hashed, and how. Another scheme would get another number.
PREFIX: Final = "shellrunner1:"
_DOMAIN: Final = "shellrunner-token-v1:"
_SECRET: Final = re.compile(r"srt_[A-Za-z0-9_-]{43}", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MIN_DISTINCT_CHARACTERS: Final = 12  # of the 43; a token that was made has fewer with a probability below 1e-18
_MIN_DISTINCT_DIGITS: Final = 9  # a hash of a token has fewer with a probability below 1e-14
# What people write where a token belongs. None has the form of a token, so none would be valid anyway; its hash is
# refused so that the mistake is reported at the start.
_SAMPLES: Final = (
    *("", "test", "token", "secret", "password", "passwort", "admin", "root", "changeme", "change-me", "example"),
    *("123456", "12345678", "qwerty", "letmein", "shellrunner", "ci", "deploy", "foo", "bar", "hello", "hunter2"),
)
_COMMAND: Final = "`shellrunner token create NAME` makes a token and prints its hash"


def create_secret() -> str:
    """Return a new token: 256 random bits behind a prefix that scanners for leaked secrets can recognize."""
    return f"srt_{secrets.token_urlsafe(32)}"


def is_secret(text: str) -> bool:
    """Return whether a text can be a token: nothing that a person would make up has its form and its variety."""
    return _SECRET.fullmatch(text) is not None and len(set(text[4:])) >= _MIN_DISTINCT_CHARACTERS


def hash_secret(secret: str) -> str:
    """Return the hash of a token."""
    return PREFIX + hashlib.sha256(f"{_DOMAIN}{secret}".encode()).hexdigest()


def check_hash(text: str) -> str:
    """Return a hash of the configuration.

    Raises:
        ValueError: it has another form, is a placeholder, or is that of a sample.
    """
    digits = ascii_text.lower(text.removeprefix(PREFIX))
    if not text.startswith(PREFIX) or _DIGITS.fullmatch(digits) is None:
        raise ValueError(f"must be {PREFIX} and 64 hex digits: {_COMMAND}")
    is_repeated = digits[:32] == digits[32:]
    if is_repeated or len(set(digits)) < _MIN_DISTINCT_DIGITS or digits in _SAMPLE_DIGITS:
        raise ValueError(f"is a placeholder, or the hash of a sample: {_COMMAND}")
    return PREFIX + digits


# Of the samples as they are, too: somebody may put our prefix before a hash that was made elsewhere.
_SAMPLE_DIGITS: Final = frozenset(hash_secret(sample).removeprefix(PREFIX) for sample in _SAMPLES) | frozenset(
    hashlib.sha256(sample.encode()).hexdigest() for sample in _SAMPLES
)
