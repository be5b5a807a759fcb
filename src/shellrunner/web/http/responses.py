"""JSON responses with an ETag, and the preconditions of requests (RFC 9110, section 13).

Used by the handlers. Must not know what the documents mean.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from aiohttp import hdrs, web

from shellrunner import ascii_text
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.streaming import start_stream
from shellrunner.wire import json_codec

MAX_BUFFERED: Final = 1 << 16  # bytes that are written at once; a longer body is streamed, with backpressure
_JSON: Final = {"Content-Type": "application/json; charset=utf-8"}
_REVALIDATE: Final = {**_JSON, "Cache-Control": "private, no-cache"}
_NO_STORE: Final = {**_JSON, "Cache-Control": "no-store"}
_HEADERS_OF_304: Final[tuple[str, ...]] = ("ETag", "Cache-Control", "Vary", "Preference-Applied")


async def ok(request: web.Request, document: Any, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
    """Respond with a document as it is now: 200, or 304 if the client has it already.

    Raises:
        HttpProblem: the client asked for another version only (`If-Match`).
    """
    return await ok_bytes(request, json_codec.dumps(document), headers)


async def ok_bytes(
    request: web.Request, content: bytes, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Respond as `ok` does, with a document that is serialized already.

    Raises:
        HttpProblem: the client asked for another version only (`If-Match`).
    """
    tag = etag(content)
    own = {**_REVALIDATE, "ETag": tag, **(headers or {})}
    if is_unchanged(request, tag):
        kept = {name: own[name] for name in _HEADERS_OF_304 if name in own}
        return web.Response(status=304, headers=kept)
    return await _respond(request, 200, content, own)


def see_other(link: str, content: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    """Respond with 303, a `Location` and a serialized document; no ETag, since preconditions apply to 2xx only."""
    own = {**_REVALIDATE, "Location": link, **(headers or {})}
    return web.Response(status=303, body=content, headers=own)


async def no_store(
    request: web.Request, status: int, document: Any, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Respond to a request that changed something: the document must not be cached."""
    return await _respond(request, status, json_codec.dumps(document), {**_NO_STORE, **headers})


def etag(content: bytes) -> str:
    """Return the strong entity tag of a body."""
    return f'"{blake2b(content, digest_size=12).hexdigest()}"'


def is_unchanged(request: web.Request, tag: str) -> bool:
    """Return whether the client has this version already (`If-None-Match`).

    Raises:
        HttpProblem: it asked for another version only (`If-Match`).
    """
    check_if_match(request, tag)
    return _matches(tag, request.headers.getall(hdrs.IF_NONE_MATCH, ()), weak=True)


def check_if_match(request: web.Request, tag: str) -> None:
    """Check `If-Match`, which compares strongly.

    Raises:
        HttpProblem: it names other versions.
    """
    wanted = request.headers.getall(hdrs.IF_MATCH, ())
    if wanted and not _matches(tag, wanted, weak=False):
        raise HttpProblem("precondition-failed", "the current version does not match If-Match")


def check_preconditions(request: web.Request, tag: str) -> None:
    """Check the preconditions of a change, of which `If-None-Match` is one too (RFC 9110, 13.1.2).

    Raises:
        HttpProblem: `If-Match` names other versions, or `If-None-Match` names this one.
    """
    check_if_match(request, tag)
    if _matches(tag, request.headers.getall(hdrs.IF_NONE_MATCH, ()), weak=True):
        raise HttpProblem("precondition-failed", "the current version matches If-None-Match")


def has_preconditions(request: web.Request) -> bool:
    """Return whether a change has preconditions."""
    return hdrs.IF_MATCH in request.headers or hdrs.IF_NONE_MATCH in request.headers


def _matches(tag: str, lines: Sequence[str], *, weak: bool) -> bool:
    # Not aiohttp's `request.if_match` and `if_none_match`: they read the first line of several only (RFC 9110, 5.3),
    # and nothing after an invalid tag. Commas within other tags do no harm: none of ours has one.
    tags = [ascii_text.strip_blanks(item) for line in lines for item in line.split(",")]
    return "*" in tags or tag in tags or (weak and f"W/{tag}" in tags)


async def _respond(
    request: web.Request, status: int, content: bytes, headers: Mapping[str, str]
) -> web.StreamResponse:
    if len(content) <= MAX_BUFFERED:
        return web.Response(status=status, body=content, headers=headers)
    stream = await start_stream(request, {**headers, "Content-Length": str(len(content))}, status)
    if request.method != "HEAD":
        await stream.send(content)
    return await stream.finish()
