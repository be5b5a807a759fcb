"""The header `Idempotency-Key`: requests with the same key create one job.

Parses the header; the store guarantees the rest. Must not know what a job is.
"""

import re
from typing import Any, Final

from aiohttp import web

from shellrunner.errors import BadParameter
from shellrunner.store import IdempotencyKey
from shellrunner.web.app_keys import identity_of
from shellrunner.wire import parse

HEADER: Final = "Idempotency-Key"
MAX_LENGTH: Final = 255  # characters

# A string of structured fields (RFC 9651, 3.3.3) without blanks, or the same without quotes.
_QUOTED = re.compile(r'"((?:[!#-\[\]-~]|\\["\\])+)"')
_BARE = re.compile(r"[!#-~][!-~]*")


def requested_key(request: web.Request) -> str | None:
    """Return the key of the request, or None if it has none.

    Raises:
        BadParameter: the key is not valid, or there are several.
    """
    if HEADER not in request.headers:
        return None
    values = request.headers.getall(HEADER)
    if len(values) > 1:
        raise BadParameter(HEADER, f"{HEADER} is given more than once")
    key = parse_key(values[0])
    if key is None:
        raise BadParameter(
            HEADER, f"{HEADER} must be 1 to {MAX_LENGTH} visible ASCII characters, in quotes or without"
        )
    return key


def bound_key(request: web.Request, key: str | None, document: Any) -> IdempotencyKey | None:
    """Return the key with the identity that sent it and a digest of the request body, if there is one."""
    return None if key is None else IdempotencyKey(identity_of(request).name, key, parse.digest(document))


def parse_key(text: str) -> str | None:
    """Return the key in the value of the header, or None if it is not valid."""
    quoted = _QUOTED.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    return key if len(key) <= MAX_LENGTH and (quoted or _BARE.fullmatch(text)) else None
