"""The table by which the configuration knows a new token.

Used by the command line and the installation. Standard library only. Must not know where the table is written.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from shellrunner.config.token_hash import hash_secret


def token_table(
    name: str,
    secret: str,
    scopes: Sequence[str],
    expires: datetime | None = None,
    restrictions: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Yield the lines of the token's `[[auth.tokens]]` table, which has the hash of the secret.

    Of the restrictions, those that are None or empty are left out. Numbers, text and lists of text are written alike
    in JSON and TOML.
    """
    yield "[[auth.tokens]]"
    yield f'name = "{name}"'
    yield f'hash = "{hash_secret(secret)}"'
    yield f"scopes = {json.dumps(scopes)}"
    if expires is not None:
        yield f"expires = {format_time(expires)}"
    for key, value in (restrictions or {}).items():
        if value is not None and value != ():
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}"


def format_time(moment: datetime) -> str:
    """Return a time in UTC, to the second, as TOML writes it."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
