"""The exact bytes of a result's stdout and stderr, all or a range of them (RFC 9110, section 14).

Handlers of /api/results/{id}/stdout and /stderr, also of one attempt. Must not know what the bytes mean.
"""

import re
from hashlib import blake2b
from typing import Final, NamedTuple

from aiohttp import hdrs, web

from shellrunner.model import Stream
from shellrunner.store.output.present import PresentBytes
from shellrunner.web.app_keys import STORE
from shellrunner.web.handlers.results import requested_attempt
from shellrunner.web.http import parameters, responses
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.streaming import READ_SIZE, STREAMS, ResponseStream, start_stream
from shellrunner.wire.text import label

# A browser must never run what a command wrote as a page of this site.
SANDBOX: Final = {"Content-Security-Policy": "sandbox; default-src 'none'"}

_MAX_POSITION: Final = 10**18  # beyond the end of every output
_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII | re.IGNORECASE)


class ByteRange(NamedTuple):
    """The `length` bytes from `first` on."""

    first: int
    length: int


async def stdout(request: web.Request) -> web.StreamResponse:
    """GET /api/results/{id}/stdout, and .../attempts/{number}/stdout: return the exact bytes, all or a range."""
    return await _show(request, Stream.STDOUT)


async def stderr(request: web.Request) -> web.StreamResponse:
    """GET /api/results/{id}/stderr, and .../attempts/{number}/stderr: return the exact bytes, all or a range."""
    return await _show(request, Stream.STDERR)


async def _show(request: web.Request, stream: Stream) -> web.StreamResponse:
    request.app[STREAMS].raise_if_closing()
    store = request.app[STORE]
    job, number, *_ = await requested_attempt(request)
    output = await store.output(job.id, number)
    gaps = await output.gaps(thorough=True)
    present = PresentBytes(output, gaps, stream)
    total = present.size
    # The bytes of an ended attempt never change, unless some get lost. The history's id is part of the tag because
    # ids begin again at 1 after the history was deleted.
    version = f"{store.history_id}/{job.id}/{number}/{stream}{f'/{gaps}' if gaps else ''}"
    tag = f'"{blake2b(version.encode(), digest_size=12).hexdigest()}"'
    common = {"ETag": tag, "Cache-Control": "private, no-cache", "Accept-Ranges": "bytes", **SANDBOX}
    if responses.is_unchanged(request, tag):
        return web.Response(status=304, headers=common)
    part = _requested_range(request, tag, total)
    headers = {
        **common,
        **_length_headers(part, total),
        "Content-Type": f"text/plain; charset={label(job.spec.encoding)}",
    }
    if parameters.flag(request, "download"):
        headers["Content-Disposition"] = f'attachment; filename="job-{job.id}-{stream}.txt"'
    response = await start_stream(request, headers, 206 if part else 200)
    if request.method != "HEAD":
        await _send(response, present, part or ByteRange(0, total))
    return await response.finish()


def _length_headers(part: ByteRange | None, total: int) -> dict[str, str]:
    if part is None:
        return {"Content-Length": str(total)}
    first, length = part
    return {"Content-Length": str(length), "Content-Range": f"bytes {first}-{first + length - 1}/{total}"}


async def _send(response: ResponseStream, present: PresentBytes, part: ByteRange) -> None:
    first, length = part
    while length > 0:
        data = await present.read(first, min(length, READ_SIZE))
        if not data:
            raise OSError(f"{length} bytes have got lost since the answer was begun")
        await response.send(data)
        first += len(data)
        length -= len(data)


def _requested_range(request: web.Request, tag: str, total: int) -> ByteRange | None:
    """Return the requested range, or None for all bytes: without a range, for several, and for invalid ones (14.2).

    Raises:
        HttpProblem: the range begins after the last byte.
    """
    # Not aiohttp's `request.http_range` and `if_range`: the one takes `bytes=-0` for `bytes=0-`, and numbers of more
    # than 4300 digits for nonsense; the other knows dates only, no entity tags (test_aiohttp_internals.py).
    match = _RANGE.fullmatch(request.headers.get(hdrs.RANGE, ""))
    if match is None or request.method != "GET" or request.headers.get(hdrs.IF_RANGE, tag) != tag:
        return None
    first, last = match.groups()
    if not (first or last) or (first and last and _position(first) > _position(last)):
        return None
    begin_at = _position(first) if first else max(0, total - _position(last))
    end = min(total, _position(last) + 1) if first and last else total
    if begin_at >= end:
        raise HttpProblem(
            "range-not-satisfiable",
            f"the range begins after the last of {total} bytes",
            {"Content-Range": f"bytes */{total}"},
            limit=total,
        )
    return ByteRange(begin_at, end - begin_at)


def _position(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= 18 else _MAX_POSITION
