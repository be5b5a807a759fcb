"""The body of a request: its type, its coding, and the time within which it must arrive.

Used by the handlers that take one, and by the security middleware. Must not know what is in it.
"""

import asyncio
from typing import Final

from aiohttp import hdrs, web

from shellrunner import ascii_text
from shellrunner.web.http import aiohttp_internals
from shellrunner.web.http.problems import HttpProblem

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"  # RFC 7396
BODY_TIMEOUT: Final = 10.0  # seconds within which a body must arrive
_MAX_TYPE: Final = 200  # characters of a Content-Type


async def preload(request: web.Request, max_bytes: int) -> None:
    """Receive the whole body, of any type and up to `max_bytes`, so that reading it later does not wait.

    Raises:
        HttpProblem: it is compressed, or does not arrive.
    """
    if request.can_read_body:
        if request.client_max_size != max_bytes:
            aiohttp_internals.limit_body(request, max_bytes)
        await read(request)


async def read_json(request: web.Request, media_type: str = JSON) -> bytes:
    """Receive a body of this type, or of JSON; it is not parsed yet.

    Raises:
        HttpProblem: it has another type or charset, is compressed, or does not arrive.
    """
    if request.headers.get(hdrs.CONTENT_TYPE) != JSON:
        _check_type(request, media_type)
    return await read(request)


async def read(request: web.Request) -> bytes:
    """Receive a body of any type; empty if there is none.

    Raises:
        HttpProblem: it is compressed, or does not arrive.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        _check_coding(request)
    return await (request.read() if request.content.is_eof() else _read_in_time(request))


def _check_type(request: web.Request, media_type: str) -> None:
    # A form of another site can send text/plain without a preflight, but not application/json.
    given = request.headers.get(hdrs.CONTENT_TYPE)
    # aiohttp's parser takes time quadratic in the length of the header, and recursion as deep as its parentheses.
    is_short = given is not None and len(given) <= _MAX_TYPE
    if not is_short or request.content_type not in (JSON, media_type) or not _is_utf8(request.charset):
        raise HttpProblem(
            "unsupported-media-type",
            f"Content-Type must be {media_type} in UTF-8, not {given[:_MAX_TYPE]!r}"
            if given
            else f"Content-Type is required: send {media_type}",
            {"Accept-Patch" if request.method == "PATCH" else "Accept-Post": media_type},
        )


def _is_utf8(charset: str | None) -> bool:
    return charset is None or ascii_text.lower(charset) == "utf-8"


def _check_coding(request: web.Request) -> None:
    # Checked before the body is read, since nothing here decompresses it; the connection ends, so it is not read.
    codings = ", ".join(request.headers.getall(hdrs.CONTENT_ENCODING))
    if ascii_text.lower(ascii_text.strip_blanks(codings)) not in {"", "identity"}:
        raise HttpProblem(
            "unsupported-media-type",
            f"Content-Encoding must be identity, not {codings!r}: send the body uncompressed",
            {"Accept-Encoding": "identity", "Connection": "close"},
        )


async def _read_in_time(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise HttpProblem(
            "body-too-slow", f"the body did not arrive within {BODY_TIMEOUT:g} s", {"Connection": "close"}
        ) from None
