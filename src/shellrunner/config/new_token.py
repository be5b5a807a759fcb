"""The table by which the configuration knows a new token.

Used by the command line and the installation. Standard library only. Must not know where the table is written.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from shellrunner.config.token_hash import hash_secret


def token_table(
    name: str, secret: str, scopes: Sequence[str], expires: datetime | None = None, run_as: str | None = None
) -> Iterator[str]:
    """Yield the lines of the token's `[[auth.tokens]]` table, which has the hash of the secret."""
    yield "[[auth.tokens]]"
    yield f'name = "{name}"'
    yield f'hash = "{hash_secret(secret)}"'
    yield f"scopes = {json.dumps(scopes)}"
    if expires is not None:
        yield f"expires = {format_time(expires)}"
    if run_as is not None:
        yield f"run_as = {json.dumps(run_as, ensure_ascii=False)}"


def format_time(moment: datetime) -> str:
    """Return a time in UTC, to the second, as TOML writes it."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
