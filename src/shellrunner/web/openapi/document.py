"""Construction of the OpenAPI document from the route table and the types that serve. Must not know any resource."""

import re
from collections.abc import Iterable, Iterator, Sequence
from inspect import getdoc
from typing import Any, Final

from shellrunner import __version__
from shellrunner.config import Settings
from shellrunner.model import AgainRequest, JobPatch
from shellrunner.model.names import MAX_BODY_BYTES
from shellrunner.web.http.bodies import MERGE_PATCH
from shellrunner.web.openapi import descriptions, examples, parameter_objects, response_objects, schemas
from shellrunner.web.openapi.links import LINKS
from shellrunner.web.route import JSON, Access, Route
from shellrunner.web.security.authentication import REQUIRED_SCOPES

Schema = dict[str, Any]

_BEARER: Final = (
    "A token whose hash is in the configuration (`shellrunner token create`). If no tokens are configured, only "
    "processes of the service's own user are served, as the kernel identifies them; over a Unix socket these are "
    "served in addition to tokens."
)
_SESSION: Final = (
    "Set by POST /api/session; PORT is the port of the service. It grants read access to statuses only, for "
    "EventSource, which cannot send a token."
)


def build(routes: Sequence[Route], settings: Settings, signals: Iterable[str]) -> Schema:
    """Build the OpenAPI Object of these routes for a service with these settings.

    `signals` are the names of the signals that the kernel has.
    """
    components = _schemas(routes, settings)
    components["SignalRequest"]["properties"]["signal"]["enum"] = list(signals)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "shellrunner",
            "summary": "Runs shell commands for other programs.",
            "description": descriptions.INTRODUCTION,
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "The server that served this document."}],
        "tags": [{"name": name, "description": text} for name, text in sorted(descriptions.TAGS.items())],
        "paths": _paths(routes, settings),
        "components": {
            "securitySchemes": _security_schemes(settings),
            "schemas": dict(sorted(components.items())),
            "responses": dict(sorted(_problem_responses(routes))),
        },
    }


def operation_id(route: Route) -> str:
    """Return the operation's id, made from verb and path: `get-jobs-id`."""
    words = re.findall(r"[a-z]+", parameter_objects.path_template(route.path).removeprefix("/api"))
    return "-".join([route.verb.lower(), *(words or ["page" if route.path == "/" else "index"])])


def _paths(routes: Iterable[Route], settings: Settings) -> dict[str, Schema]:
    paths: dict[str, Schema] = {}
    for route in routes:
        operation = _operation(route) | {"security": _security(route, settings)}
        paths.setdefault(parameter_objects.path_template(route.path), {})[route.verb.lower()] = operation
    return paths


def _security_schemes(settings: Settings) -> dict[str, Schema]:
    session = {"session": {"type": "apiKey", "in": "cookie", "name": "shellrunner-PORT", "description": _SESSION}}
    bearer = {"bearer": {"type": "http", "scheme": "bearer", "description": _BEARER}}
    return bearer | (session if settings.auth.session_cookie else {})


def _security(route: Route, settings: Settings) -> list[Schema]:
    """Return the alternatives, the bearer with the scope it needs (OpenAPI 3.1, "Security Requirement Object")."""
    if route.access in (Access.PUBLIC, Access.HOST_CHECKED):
        return []
    alternatives: list[Schema] = [{"bearer": [*REQUIRED_SCOPES.get(route.access, ())]}]
    if route.access is Access.WATCH and settings.auth.session_cookie:
        alternatives.append({"session": []})
    # Without tokens the kernel identifies the client, and nothing in the request does.
    return alternatives if settings.auth.tokens else [*alternatives, {}]


def _operation(route: Route) -> Schema:
    summary, description = _summary_and_description(route)
    operation: Schema = {
        "operationId": operation_id(route),
        "tags": [_tag(route)],
        "summary": summary,
        "description": description,
        "parameters": parameter_objects.for_route(route, response_objects.request_headers(route)),
        "responses": response_objects.for_route(route),
    }
    if route.body is not None:
        operation["requestBody"] = _request_body(route.body)
    for status, links in LINKS.get(operation["operationId"], {}).items():
        operation["responses"][status]["links"] = links
    return operation


def _summary_and_description(route: Route) -> tuple[str, str]:
    """Read the docstring of the handler: a line that begins with verb and path, and perhaps more below it."""
    first, _, rest = (getdoc(route.handler) or "").partition("\n")
    line = first.partition(": ")[2].rstrip(".")
    summary = line[:1].upper() + line[1:]
    return summary, " ".join(rest.split()) or f"{summary}."


def _tag(route: Route) -> str:
    segment = route.path.removeprefix("/api").split("/")[1:2]
    return segment[0] if segment and segment[0] in descriptions.TAGS else "service"


def _request_body(body: type) -> Schema:
    if body is bytes:
        return {"content": {"application/octet-stream": {"schema": {"type": "string", "maxLength": MAX_BODY_BYTES}}}}
    content: Schema = {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}
    if body.__name__ in examples.BODIES:
        content["examples"] = examples.BODIES[body.__name__]
    return {"required": body is not AgainRequest, "content": {MERGE_PATCH if body is JobPatch else JSON: content}}


def _schemas(routes: Iterable[Route], settings: Settings) -> dict[str, Schema]:
    found = schemas.problem()
    names = {answer.content for route in routes for answer in response_objects.declared_answers(route)}
    names |= {name for events in response_objects.EVENTS.values() for name in events.values()}
    for name in sorted(name for name in names if name and "/" not in name):
        found |= schemas.document(name)
    for name in _lists(routes) & found.keys():
        schemas.make_fields_optional(found, name)
    for body in {route.body for route in routes if route.body not in (None, bytes)}:
        assert body is not None  # noqa: S101  excluded in the line above
        found |= schemas.body(body, settings)
    return found


def _lists(routes: Iterable[Route]) -> set[str]:
    """Return what routes return that take the parameter `fields`."""
    return {
        answer.content
        for route in routes
        if "fields" in route.parameters.split()
        for answer in response_objects.declared_answers(route)
    }


def _problem_responses(routes: Iterable[Route]) -> Iterator[tuple[str, Schema]]:
    for route in routes:
        for codes in response_objects.problems_by_status(route):
            yield response_objects.component_name(codes), response_objects.problem_response(codes)
