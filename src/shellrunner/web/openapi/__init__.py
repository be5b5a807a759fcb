"""The API as an OpenAPI 3.1 document.

`OpenApiDocument` belongs to the app and builds it once, at the first request, by `document`. Must not know any
resource.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

from aiohttp import web

from shellrunner.config import Settings
from shellrunner.web.http import responses
from shellrunner.web.route import Route
from shellrunner.wire import json_codec


class OpenApiDocument:
    """The document of one app, as the body of a response."""

    def __init__(self, routes: Sequence[Route], settings: Settings, signals: Iterable[str]) -> None:
        self._inputs = routes, settings, signals

    async def content(self) -> bytes:
        """Return the document as JSON."""
        # In a thread, because the first call takes as long as a hundred requests.
        return await asyncio.to_thread(lambda: self._content)

    @cached_property
    def _content(self) -> bytes:
        # Few services are ever asked for it, and its modules take 2 MB.
        from shellrunner.web.openapi import document  # noqa: PLC0415

        return json_codec.dumps(document.build(*self._inputs))


OPENAPI: Final = web.AppKey("openapi", OpenApiDocument)


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/openapi.json: return this document.

    It is generated from the types and the route table that serve, for the configuration of this service.
    """
    return await responses.ok_bytes(request, await request.app[OPENAPI].content())
