"""The body of a request: its type, its coding, and the time in which it must arrive.

Used by the resources that take one. Must not know what is in it.
"""

import asyncio
from typing import Final

from aiohttp import hdrs, web

from shellrunner.web.http.problems import Refused

BODY_TIME: Final = 10.0  # seconds in which a body must arrive


async def receive(request: web.Request) -> None:
    """Have all of the body here, whatever its type; handlers then have it at once.

    Raises:
        Refused: it is packed, or does not arrive.
    """
    if request.can_read_body:
        await anything(request)


async def json(request: web.Request) -> bytes:
    """The bytes of a JSON body, still to be read as such.

    Raises:
        Refused: it has another type or coding, or does not arrive.
    """
    if request.headers.get(hdrs.CONTENT_TYPE) != "application/json":
        _check_type(request)
    return await anything(request)


async def anything(request: web.Request) -> bytes:
    """A body of any type, or none.

    Raises:
        Refused: it is packed, or does not arrive.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        _check_coding(request)
    return await (request.read() if request.content.is_eof() else _arriving(request))


def _check_type(request: web.Request) -> None:
    # A form of another site can send text/plain without asking, but not application/json.
    given = request.headers.get(hdrs.CONTENT_TYPE)
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise Refused(
            "unsupported-media-type",
            f"Content-Type must be application/json in UTF-8, not {given!r}" if given else "Content-Type is required",
            {"Accept-Post": "application/json"},
        )


def _check_coding(request: web.Request) -> None:
    # Before the body is read, for nothing here unpacks it; and the connection ends, so that it is not waited for.
    codings = ", ".join(request.headers.getall(hdrs.CONTENT_ENCODING))
    if codings.strip().lower() not in {"", "identity"}:
        raise Refused(
            "unsupported-media-type",
            "Content-Encoding must be identity",
            {"Accept-Encoding": "identity", "Connection": "close"},
        )


async def _arriving(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIME):
            return await request.read()
    except TimeoutError:
        raise Refused(
            "body-too-slow", f"the body did not arrive within {BODY_TIME:g} s", {"Connection": "close"}
        ) from None
