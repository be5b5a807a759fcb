"""The documentation: /llms.txt and /llms-full.txt for programs, and HTML at /docs, from the files of the package.

hatch_build.py puts them there: the texts in every build, the HTML in those that are made with it. What is served is a
fixed table of names. Must not know what the documentation says.
"""

import asyncio
import base64
import re
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from aiohttp import web

from shellrunner.web.http import responses, static_files
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.static_files import StaticFile

FOLDER: Final = files("shellrunner") / "documentation"
TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json; charset=utf-8",
    "yaml": "application/yaml; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml; charset=utf-8",
}
# The theme's own scripts run, and its inline one by its hash. They connect to nothing: these pages have the origin of
# the API, so that a fault in a script of the theme must not become a request to it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_INLINE_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_TEXT: Final = "text/plain; charset=utf-8"
_REVALIDATE: Final = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}


async def summary(request: web.Request) -> web.StreamResponse:
    """GET /llms.txt: return what a program needs to know to use the API.

    Markdown as llmstxt.org describes it: how to submit, follow, cancel and find jobs, and links to the rest.
    """
    return await _send_text(request, "llms.txt")


async def full_text(request: web.Request) -> web.StreamResponse:
    """GET /llms-full.txt: return all pages of the documentation as one text, in Markdown."""
    return await _send_text(request, "llms-full.txt")


async def redirect(request: web.Request) -> web.Response:
    """GET /docs: redirect to the first page of the documentation."""
    headers = {"Location": "/docs/", "Content-Type": _TEXT, "Cache-Control": "no-cache"}
    return web.Response(status=308, body=b"/docs/\n", headers=headers)


async def show(request: web.Request) -> web.StreamResponse:
    """GET /docs/{page}: return a page of the documentation as HTML, or a file that it loads.

    Release wheels have them. Another installation may have none; then the problem says where to read instead.
    """
    html = await asyncio.to_thread(read_html)
    name = request.match_info["page"]
    found = html.get(f"{name}index.html" if name == "" or name.endswith("/") else name)
    if found is None:
        raise HttpProblem("not-found", f"there is nothing at {request.path}")
    is_page = found.content_type == TYPES["html"]
    return _respond(request, found, {"Content-Security-Policy": policy(found.content)} if is_page else {})


@cache
def read_text(name: str) -> StaticFile:
    """Read and compress one of the texts, once.

    Raises:
        HttpProblem: the package was not built, so it has no documentation.
    """
    try:
        return static_files.compress(_TEXT, (FOLDER / name).read_bytes())
    except FileNotFoundError:
        raise HttpProblem(
            "not-found",
            "this installation has no documentation: install shellrunner with pip, which builds it; "
            "the API is described at /api/openapi.json",
        ) from None


@cache
def read_html() -> Mapping[str, StaticFile]:
    """Read and compress all files of the HTML documentation, once, by name.

    Raises:
        HttpProblem: the package was built without it.
    """
    found = static_files.read_folder(FOLDER / "html", TYPES)
    if not found:
        raise HttpProblem(
            "not-found",
            "this installation was built without the HTML documentation: read /llms-full.txt, or docs/ in the "
            "repository; release wheels have it",
        )
    return {name: static_files.compress(static_files.content_type(name, TYPES), data) for name, data in found.items()}


@cache
def policy(page: bytes) -> str:
    """Return the Content-Security-Policy of a page: its inline scripts are allowed by their hashes."""
    digests = sorted({sha256(script).digest() for script in _INLINE_SCRIPT.findall(page)})
    return _POLICY.format(hashes="".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests))


async def _send_text(request: web.Request, name: str) -> web.Response:
    return _respond(request, await asyncio.to_thread(read_text, name), {})


def _respond(request: web.Request, file: StaticFile, headers: Mapping[str, str]) -> web.Response:
    is_compressed = static_files.accepts_gzip(request)
    body = file.compressed if is_compressed else file.content
    own = {**_REVALIDATE, "ETag": responses.etag(body)}
    if responses.is_unchanged(request, own["ETag"]):
        return web.Response(status=304, headers=own)
    encoding = {"Content-Encoding": "gzip"} if is_compressed else {}
    return web.Response(body=body, headers={**own, "Content-Type": file.content_type, **encoding, **headers})
