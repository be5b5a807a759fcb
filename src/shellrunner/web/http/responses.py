"""JSON answers: one shape, an ETag, and the conditions that a client puts on it (RFC 9110, section 13).

Used by the resources. Must not know what the documents mean.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from aiohttp import hdrs, web

from shellrunner.web.http.problems import Refused
from shellrunner.web.http.streaming import begin
from shellrunner.wire import json_codec

SMALL: Final = 1 << 16  # bytes that are handed over at once; more waits for its reader
_JSON: Final = {"Content-Type": "application/json; charset=utf-8"}
_FRESH: Final = {**_JSON, "Cache-Control": "private, no-cache"}
_ONCE: Final = {**_JSON, "Cache-Control": "no-store"}
_UNCHANGED: Final[tuple[str, ...]] = ("ETag", "Cache-Control", "Vary", "Preference-Applied")  # what a 304 says too


async def resource(
    request: web.Request, document: Any, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """A document as it is now: 200, or 304 if the client has it already.

    Raises:
        Refused: the client asked for another version only (`If-Match`).
    """
    return await stored(request, json_codec.dumps(document), headers)


async def stored(
    request: web.Request, content: bytes, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """The same for a document that is a body already."""
    tag = etag(content)
    own = {**_FRESH, "ETag": tag, **(headers or {})}
    if unchanged(request, tag):
        kept = {name: own[name] for name in _UNCHANGED if name in own}
        return web.Response(status=304, headers=kept)
    return await _told(request, 200, content, own)


def elsewhere(link: str, document: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """303: what is asked for is to be had at `link`. Conditions count for 2xx only, so it has no ETag."""
    own = {**_FRESH, "Location": link, **(headers or {})}
    return web.Response(status=303, body=json_codec.dumps(document), headers=own)


async def once(request: web.Request, status: int, document: Any, headers: Mapping[str, str]) -> web.StreamResponse:
    """The answer to something that was done."""
    return await _told(request, status, json_codec.dumps(document), {**_ONCE, **headers})


def etag(content: bytes) -> str:
    """The version of a document."""
    return f'"{blake2b(content, digest_size=12).hexdigest()}"'


def unchanged(request: web.Request, tag: str) -> bool:
    """Whether the client has this version already.

    Raises:
        Refused: it asked for another version only.
    """
    check_version(request, tag)
    return _among(tag, request.headers.getall(hdrs.IF_NONE_MATCH, ()), weak=True)


def check_version(request: web.Request, tag: str) -> None:
    """Keep `If-Match`, which compares strongly.

    Raises:
        Refused: it names other versions.
    """
    wanted = request.headers.getall(hdrs.IF_MATCH, ())
    if wanted and not _among(tag, wanted, weak=False):
        raise Refused("precondition-failed", "If-Match names another version")


def check_change(request: web.Request, tag: str) -> None:
    """The same before something is changed: there `If-None-Match` refuses too (RFC 9110, 13.1.2).

    Raises:
        Refused: `If-Match` names other versions, or `If-None-Match` this one.
    """
    check_version(request, tag)
    if _among(tag, request.headers.getall(hdrs.IF_NONE_MATCH, ()), weak=True):
        raise Refused("precondition-failed", "If-None-Match names this version")


def is_conditional(request: web.Request) -> bool:
    """Whether the client put a condition on a change."""
    return hdrs.IF_MATCH in request.headers or hdrs.IF_NONE_MATCH in request.headers


def _among(tag: str, lines: Sequence[str], *, weak: bool) -> bool:
    tags = [item.strip() for line in lines for item in line.split(",")]
    return "*" in tags or tag in tags or (weak and f"W/{tag}" in tags)


async def _told(request: web.Request, status: int, content: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    if len(content) <= SMALL:
        return web.Response(status=status, body=content, headers=headers)
    outlet = await begin(request, {**headers, "Content-Length": str(len(content))}, status)
    if request.method != "HEAD":
        await outlet.send(content)
    return await outlet.finish()
