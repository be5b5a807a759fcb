"""Tokens of tests: each follows from a name, and has the form of a real one."""

import base64
import hashlib

from shellrunner.config.token_hash import hash_secret


def secret_of(name: str) -> str:
    """Return the token of this name."""
    return "srt_" + base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")


def hash_of(name: str) -> str:
    """Return the hash by which a configuration knows the token of this name."""
    return hash_secret(secret_of(name))
