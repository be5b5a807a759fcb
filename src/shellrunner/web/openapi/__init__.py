"""The API as an OpenAPI 3.1 document, made from the route table and the types that serve.

`Description` belongs to the app and makes it once, when it is first asked for. Must not know any resource.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from inspect import getdoc
from typing import Any, Final

from aiohttp import web

from shellrunner import __version__
from shellrunner.config import Settings
from shellrunner.web.http import responses
from shellrunner.web.openapi import examples, parameter_objects, response_objects, schemas
from shellrunner.web.route import JSON, Access, Route
from shellrunner.web.security.authentication import NEEDS
from shellrunner.wire import json_codec

Schema = dict[str, Any]

_BEARER: Final = (
    "A token that config names by its hash (`shellrunner token create`). Without tokens in config only processes of "
    "the service's own user are served, as the kernel names them; on a Unix socket these are served beside tokens."
)
_SESSION: Final = "Begun by POST /api/session; PORT is the one listened on. Good for watching statuses only."


class Description:
    """The document of one app."""

    def __init__(self, routes: Sequence[Route], settings: Settings, signals: Iterable[str]) -> None:
        self._about = routes, settings, signals

    async def content(self) -> bytes:
        """The document as a body."""
        # In a thread, because the first time takes as long as a hundred requests.
        return await asyncio.to_thread(lambda: self._content)

    @cached_property
    def _content(self) -> bytes:
        return json_codec.dumps(document(*self._about))


DESCRIPTION: Final = web.AppKey("description", Description)


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/openapi.json: this document.

    It is made from the very types and route table that serve, for the config of this service.
    """
    return await responses.stored(request, await request.app[DESCRIPTION].content())


def document(routes: Sequence[Route], settings: Settings, signals: Iterable[str]) -> Schema:
    """Describe these routes as a service serves them that has these settings, on a system that has these signals."""
    shapes = _schemas(routes, settings)
    shapes["SignalRequest"]["properties"]["signal"]["enum"] = list(signals)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "shellrunner",
            "summary": "Runs shell commands for other programs.",
            "description": examples.INTRODUCTION,
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "wherever this document was read"}],
        "tags": [{"name": name, "description": words} for name, words in sorted(examples.TAGS.items())],
        "paths": _paths(routes, settings),
        "components": {
            "securitySchemes": _schemes(settings),
            "schemas": dict(sorted(shapes.items())),
            "responses": dict(sorted(_problems(routes))),
        },
    }


def operation_id(row: Route) -> str:
    """What the operation is called, by verb and path: `get-jobs-id`."""
    words = re.findall(r"[a-z]+", parameter_objects.plain(row.path).removeprefix("/api"))
    return "-".join([row.verb.lower(), *(words or ["page" if row.path == "/" else "index"])])


def _paths(routes: Iterable[Route], settings: Settings) -> dict[str, Schema]:
    paths: dict[str, Schema] = {}
    for row in routes:
        about = _operation(row) | {"security": _security(row, settings)}
        paths.setdefault(parameter_objects.plain(row.path), {})[row.verb.lower()] = about
    return paths


def _schemes(settings: Settings) -> dict[str, Schema]:
    session = {"session": {"type": "apiKey", "in": "cookie", "name": "shellrunner-PORT", "description": _SESSION}}
    bearer = {"bearer": {"type": "http", "scheme": "bearer", "description": _BEARER}}
    return bearer | (session if settings.auth.session_cookie else {})


def _security(row: Route, settings: Settings) -> list[Schema]:
    """What lets in; for a bearer the scope that it needs (OpenAPI 3.1, "Security Requirement Object")."""
    if row.access in (Access.PUBLIC, Access.HOST_CHECKED):
        return []
    scopes = [NEEDS[row.access]] if row.access in NEEDS else []
    ways: list[Schema] = [{"bearer": scopes}]
    if row.access is Access.WATCH and settings.auth.session_cookie:
        ways.append({"session": []})
    # Without tokens the kernel says whose process asks, and nothing in the request does.
    return ways if settings.auth.tokens else [*ways, {}]


def _operation(row: Route) -> Schema:
    summary, words = _told(row)
    about: Schema = {
        "operationId": operation_id(row),
        "tags": [_tag(row)],
        "summary": summary,
        "description": words,
        "parameters": parameter_objects.of(row, response_objects.headers_of(row)),
        "responses": response_objects.of(row),
    }
    if row.body is not None:
        about["requestBody"] = _takes(row.body)
    for status, links in examples.LINKS.get(about["operationId"], {}).items():
        about["responses"][status]["links"] = links
    return about


def _told(row: Route) -> tuple[str, str]:
    """What the handler's docstring says: a line that begins with verb and path, and more below it."""
    first, _, rest = (getdoc(row.handler) or "").partition("\n")
    words = first.partition(": ")[2].rstrip(".")
    summary = words[:1].upper() + words[1:]
    return summary, " ".join(rest.split()) or f"{summary}."


def _tag(row: Route) -> str:
    segment = row.path.removeprefix("/api").split("/")[1:2]
    return segment[0] if segment and segment[0] in examples.TAGS else "service"


def _takes(kind: type) -> Schema:
    if kind is bytes:
        return {"content": {"application/octet-stream": {"schema": {"type": "string", "maxLength": 1 << 20}}}}
    about: Schema = {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}
    if kind.__name__ in examples.BODIES:
        about["examples"] = examples.BODIES[kind.__name__]
    return {"required": True, "content": {JSON: about}}


def _schemas(routes: Iterable[Route], settings: Settings) -> dict[str, Schema]:
    found = schemas.problem()
    names = {answer.carries for row in routes for answer in response_objects.told(row)}
    names |= {name for events in response_objects.EVENTS.values() for name in events.values()}
    for name in sorted(name for name in names if name and "/" not in name):
        found |= schemas.document(name)
    for name in {
        answer.carries
        for row in routes
        if "fields" in row.parameters.split()
        for answer in response_objects.told(row)
    }:
        if name in found:
            schemas.let_fields_choose(found, name)
    for kind in {row.body for row in routes if row.body not in (None, bytes)}:
        assert kind is not None  # noqa: S101  it was left out above
        found |= schemas.body(kind, settings)
    return found


def _problems(routes: Iterable[Route]) -> Iterator[tuple[str, Schema]]:
    for row in routes:
        for kinds in response_objects.problems_of(row):
            yield response_objects.name(kinds), response_objects.problem(kinds)
