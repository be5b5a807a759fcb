"""`Idempotency-Key`: whoever sends a request twice says so, and gets one job.

Reads the header; the history keeps the promise. Must not know what a job is.
"""

import re
from typing import Final

from aiohttp import web

from shellrunner.errors import BadParameter
from shellrunner.store import IdempotencyKey
from shellrunner.web.app_keys import identity_of
from shellrunner.wire import parse

NAME: Final = "Idempotency-Key"
MOST: Final = 255  # characters

# A string as structured fields have it (RFC 9651, 3.3.3), but for blanks; or the same without its quotes.
_QUOTED = re.compile(r'"((?:[!#-\[\]-~]|\\["\\])+)"')
_BARE = re.compile(r"[!#-~][!-~]*")


def asked(request: web.Request) -> str | None:
    """The key, or None.

    Raises:
        BadParameter: it is none, or there are two.
    """
    if NAME not in request.headers:
        return None
    given = request.headers.getall(NAME)
    if len(given) > 1:
        raise BadParameter(NAME, f"{NAME} is given more than once")
    key = read(given[0])
    if key is None:
        raise BadParameter(NAME, f"{NAME} must be 1 to {MOST} visible ASCII characters, in quotes or without")
    return key


def of(request: web.Request, key: str, content: bytes) -> IdempotencyKey:
    """The key as the history keeps it: whose it is, and what came with it."""
    return IdempotencyKey(identity_of(request).name, key, parse.digest(content))


def read(text: str) -> str | None:
    """The key that the header's value stands for, or None."""
    quoted = _QUOTED.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    return key if len(key) <= MOST and (quoted or _BARE.fullmatch(text)) else None
