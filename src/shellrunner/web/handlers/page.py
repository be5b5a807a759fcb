"""The page at / and its assets, from the files of the package.

Handlers of / and /assets. The path of an asset contains a hash of all assets, so clients may cache it forever. Must
not know what the page does.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Final

from aiohttp import web

from shellrunner.web.http import responses, static_files
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.static_files import StaticFile

INDEX: Final = "index.html"
TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml; charset=utf-8",
}
REQUIRED: Final = frozenset({INDEX, "main.js", "vendor/xterm.mjs"})

# Only the page's own modules run, and no text becomes elements: output of a command can never act in the page.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; worker-src 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_COMMON: Final = {"Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
_HTML: Final = {"Content-Type": "text/html; charset=utf-8", **_COMMON}
_IMMUTABLE: Final = {"Cache-Control": "max-age=31536000, immutable", "Vary": "Accept-Encoding"}


@dataclass(frozen=True, slots=True)
class PageAssets:
    """The page and its assets by path; `version` is a hash of all assets."""

    index: bytes
    version: str
    assets: dict[str, StaticFile]


async def show(request: web.Request) -> web.StreamResponse:
    """GET /: return the page for people."""
    page = await asyncio.to_thread(read)
    tag = responses.etag(page.index)
    if responses.is_unchanged(request, tag):
        return web.Response(status=304, headers={**_COMMON, "ETag": tag})
    return web.Response(body=page.index, headers={**_HTML, "ETag": tag})


async def asset(request: web.Request) -> web.StreamResponse:
    """GET /assets/{version}/{file}: return an asset of the page; it never changes under its path."""
    page = await asyncio.to_thread(read)
    found = page.assets.get(request.match_info["file"])
    if found is None or request.match_info["version"] != page.version:
        raise HttpProblem("not-found", f"there is nothing at {request.path}")
    headers = {"Content-Type": found.content_type, **_IMMUTABLE}
    if static_files.accepts_gzip(request):
        return web.Response(body=found.compressed, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=found.content, headers=headers)


@cache
def read() -> PageAssets:
    """Read and compress all files, once.

    Raises:
        HttpProblem: the package was not built, so its page is missing.
    """
    content = static_files.read_folder(files("shellrunner") / "page", {**TYPES, "html": _HTML["Content-Type"]})
    if not content.keys() >= REQUIRED:
        raise HttpProblem("not-found", "this installation has no page: install shellrunner with pip, which builds it")
    index = content.pop(INDEX)
    version = _version(content)
    assets = {
        name: static_files.compress(static_files.content_type(name, TYPES), data) for name, data in content.items()
    }
    return PageAssets(index.replace(b"/assets/-/", f"/assets/{version}/".encode()), version, assets)


def _version(content: Mapping[str, bytes]) -> str:
    state = blake2b(digest_size=9)
    for name, data in sorted(content.items()):
        state.update(f"{name} {len(data)} ".encode() + data)
    return state.hexdigest()
