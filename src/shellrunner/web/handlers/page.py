"""The page at / and what it loads, from the package's own files.

Handlers of / and /assets. What is loaded lies under a name made from the content of all of it, and so may be kept for
ever. Must not know what the page does.
"""

import asyncio
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from aiohttp import hdrs, web

from shellrunner.web.http import responses
from shellrunner.web.http.problems import HttpProblem

INDEX: Final = "index.html"
TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml; charset=utf-8",
}
NEEDED: Final = frozenset({INDEX, "main.js", "vendor/xterm.mjs"})

# Nothing but the page's own modules runs, and nothing makes elements of text: what a command wrote never acts here.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_ALWAYS: Final = {"Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
_FRESH: Final = {"Content-Type": "text/html; charset=utf-8", **_ALWAYS}
_KEPT: Final = {"Cache-Control": "max-age=31536000, immutable", "Vary": "Accept-Encoding"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that the page loads, as it is and packed."""

    kind: str
    content: bytes
    packed: bytes


@dataclass(frozen=True, slots=True)
class PageAssets:
    """The page, and what it loads by name; `version` is that of all of it."""

    index: bytes
    version: str
    assets: dict[str, Asset]


async def show(request: web.Request) -> web.StreamResponse:
    """GET /: the page for people."""
    page = await asyncio.to_thread(read)
    tag = responses.etag(page.index)
    if responses.is_unchanged(request, tag):
        return web.Response(status=304, headers={**_ALWAYS, "ETag": tag})
    return web.Response(body=page.index, headers={**_FRESH, "ETag": tag})


async def asset(request: web.Request) -> web.StreamResponse:
    """GET /assets/{version}/{file}: what the page loads; it never changes under its name."""
    page = await asyncio.to_thread(read)
    found = page.assets.get(request.match_info["file"])
    if found is None or request.match_info["version"] != page.version:
        raise HttpProblem("not-found", f"there is nothing at {request.path}")
    headers = {"Content-Type": found.kind, **_KEPT}
    if _takes_packed(request):
        return web.Response(body=found.packed, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=found.content, headers=headers)


@cache
def read() -> PageAssets:
    """Read and pack all of it, once.

    Raises:
        HttpProblem: this copy of the package was not built.
    """
    content = dict(_walk(files("shellrunner") / "page"))
    if not content.keys() >= NEEDED:
        raise HttpProblem(
            "not-found", "this copy of shellrunner has no page in it: pip puts it there when it installs"
        )
    index = content.pop(INDEX)
    version = _version(content)
    assets = {
        name: Asset(TYPES[name.rpartition(".")[2]], data, gzip.compress(data, mtime=0))
        for name, data in content.items()
    }
    return PageAssets(index.replace(b"/assets/-/", f"/assets/{version}/".encode()), version, assets)


def _version(content: Mapping[str, bytes]) -> str:
    state = blake2b(digest_size=9)
    for name, data in sorted(content.items()):
        state.update(f"{name} {len(data)} ".encode() + data)
    return state.hexdigest()


def _walk(folder: Traversable, place: str = "") -> list[tuple[str, bytes]]:
    if not folder.is_dir():
        return []
    found = []
    for each in folder.iterdir():
        if each.is_dir():
            found += _walk(each, f"{place}{each.name}/")
        elif place + each.name == INDEX or each.name.rpartition(".")[2] in TYPES:
            found.append((place + each.name, each.read_bytes()))
    return found


def _takes_packed(request: web.Request) -> bool:
    return "gzip" in (coding.strip().lower() for coding in request.headers.get(hdrs.ACCEPT_ENCODING, "").split(","))
