"""New tokens: the secret, and the table by which the configuration knows it.

Used by the command line and the installation. Standard library only. Must not know where the table is written.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime


def create_secret() -> str:
    """Return a new token: 256 random bits behind a prefix that scanners for leaked secrets can recognize."""
    return f"srt_{secrets.token_urlsafe(32)}"


def token_table(
    name: str, secret: str, scopes: Sequence[str], expires: datetime | None = None, run_as: str | None = None
) -> Iterator[str]:
    """Yield the lines of the token's `[[auth.tokens]]` table, which has the SHA-256 of the secret."""
    yield "[[auth.tokens]]"
    yield f'name = "{name}"'
    yield f'sha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"'
    yield f"scopes = {json.dumps(scopes)}"
    if expires is not None:
        yield f"expires = {format_time(expires)}"
    if run_as is not None:
        yield f"run_as = {json.dumps(run_as, ensure_ascii=False)}"


def format_time(moment: datetime) -> str:
    """Return a time in UTC, to the second, as TOML writes it."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
