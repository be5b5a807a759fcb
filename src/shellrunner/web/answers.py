"""JSON answers: one shape, an ETag, and the conditions that a client puts on it (RFC 9110, section 13).

Used by the resources. Must not know what the documents mean.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from aiohttp import hdrs, web

from shellrunner.web.problems import Refused
from shellrunner.wire import body

_JSON: Final = {"Content-Type": "application/json; charset=utf-8"}
_FRESH: Final = {**_JSON, "Cache-Control": "private, no-cache"}
_ONCE: Final = {**_JSON, "Cache-Control": "no-store"}


def resource(request: web.Request, document: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    """A document as it is now: 200, or 304 if the client has it already.

    Raises:
        Refused: the client asked for another version only (`If-Match`).
    """
    content = body.dump(document)
    tag = etag(content)
    own = {**_FRESH, "ETag": tag, **(headers or {})}
    if unchanged(request, tag):
        return web.Response(status=304, headers={"ETag": tag, "Cache-Control": own["Cache-Control"]})
    return web.Response(body=content, headers=own)


def elsewhere(link: str, document: Any) -> web.Response:
    """303: what is asked for is to be had at `link`. Conditions count for 2xx only, so it has no ETag."""
    return web.Response(status=303, body=body.dump(document), headers={**_FRESH, "Location": link})


def once(status: int, document: Any, headers: Mapping[str, str]) -> web.Response:
    """The answer to something that was done."""
    return web.Response(status=status, body=body.dump(document), headers={**_ONCE, **headers})


def etag(content: bytes) -> str:
    """The version of a document."""
    return f'"{blake2b(content, digest_size=12).hexdigest()}"'


def unchanged(request: web.Request, tag: str) -> bool:
    """Whether the client has this version already.

    Raises:
        Refused: it asked for another version only.
    """
    check_version(request, tag)
    known = request.headers.get(hdrs.IF_NONE_MATCH)
    return known is not None and _among(tag, known, weak=True)


def check_version(request: web.Request, tag: str) -> None:
    """Keep `If-Match`, which compares strongly.

    Raises:
        Refused: it names other versions.
    """
    wanted = request.headers.get(hdrs.IF_MATCH)
    if wanted is not None and not _among(tag, wanted, weak=False):
        raise Refused("precondition-failed", "If-Match names another version")


def _among(tag: str, listed: str, *, weak: bool) -> bool:
    tags = [item.strip() for item in listed.split(",")]
    return "*" in tags or tag in tags or (weak and f"W/{tag}" in tags)
