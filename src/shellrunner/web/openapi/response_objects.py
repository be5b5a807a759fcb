"""The Response Objects of each route: statuses, documents, headers and problems; most follow from the route's row.

Used by the other modules of this package. Must not know how a response is made.
"""

from collections.abc import Iterator
from http import HTTPStatus
from itertools import groupby
from typing import Any, Final, NamedTuple

from shellrunner.web.http.problems import STATUSES
from shellrunner.web.openapi import descriptions
from shellrunner.web.route import HTML, JSON, SSE, TEXT, Access, Route
from shellrunner.web.security.authentication import REQUIRED_SCOPES

Schema = dict[str, Any]

# Problems of every route, and those of a route that is served under any Host and takes no query.
ANY: Final = (
    *("bad-request", "bad-parameter", "cross-site", "expectation-failed", "wrong-host", "headers-too-large"),
    *("internal", "store-unavailable", "outcome-unknown", "no-space", "shutting-down"),
)
PROBE: Final = ("bad-request", "expectation-failed", "headers-too-large", "internal")
_PROBLEM: Final = "application/problem+json"

_STRING: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**31}
_LINK: Final[Schema] = {"type": "string", "format": "uri-reference"}
_ETAG: Final[Schema] = {"type": "string", "pattern": '^"[!#-~]+"$'}

# Headers of responses: schema and description.
HEADERS: Final[dict[str, tuple[Schema, str]]] = {
    "Accept-Encoding": (_STRING, "The content codings that a body may have."),
    "Accept-Post": (_STRING, "The media types that this route takes."),
    "Accept-Ranges": ({"enum": ["bytes", "none"]}, "Whether ranges of bytes can be requested."),
    "Allow": (_STRING, "The methods that this path supports."),
    "Clear-Site-Data": (_STRING, "What the browser is to delete of this origin."),
    "Content-Encoding": ({"const": "gzip"}, "The content coding of the body."),
    "Content-Disposition": (_STRING, "The file name, with `download`."),
    "Content-Location": (_LINK, "The resource that the body represents."),
    "Content-Range": (_STRING, "Which bytes of the whole these are."),
    "Content-Security-Policy": (_STRING, "Limits what browsers load and run with this document."),
    "ETag": (_ETAG, "The version of the document."),
    "Link": (_STRING, 'The next page, if there is one: `<…>; rel="next"`.'),
    "Location": (_LINK, "The resource to request next."),
    "Preference-Applied": (_STRING, "The maximum wait that was applied, if one was preferred."),
    "Retry-After": (_COUNT, "Seconds after which to try again."),
    "Vary": (_STRING, "The request headers on which the response depends."),
    "WWW-Authenticate": (_STRING, "How to authenticate (RFC 6750)."),
    "X-Accel-Buffering": ({"const": "no"}, "Prevents proxies from buffering what is sent piece by piece."),
}


# The documents of the events, by name: in the stream of one job (True), and in the stream of all statuses (False).
_OUTPUT = {"stdout": "OutputEvent", "stderr": "OutputEvent"}
EVENTS: Final = {
    True: {"status": "Status", **_OUTPUT, "attempt": "AttemptEvent", "dropped": "DroppedEvent", "done": "DoneEvent"},
    False: {"status": "Status", "deleted": "DeletedEvent", "reset": "ResetEvent"},
}


class Answer(NamedTuple):
    """A status, and the document or media type of its body, if it has one."""

    status: int
    content: str


def declared_answers(route: Route) -> Iterator[Answer]:
    """Yield the answers in a route's row that are not problems."""
    for word in route.answers.split():
        status, _, content = word.partition(":")
        if status.isdecimal():
            without_body = status in ("204", "304") or route.verb == "DELETE"
            yield Answer(int(status), content or ("" if without_body else route.content_type))


def problem_codes(route: Route) -> list[str]:
    """Return the kinds of problem that a route may answer with."""
    declared = [word for word in route.answers.split() if word in STATUSES]
    possible = {*(PROBE if route.access is Access.PUBLIC else ANY), *declared, *_implied_problems(route)}
    return [code for code in STATUSES if code in possible]


def request_headers(route: Route) -> Iterator[str]:
    """Yield the request headers that have an effect on this route."""
    yield from route.headers.split()
    statuses = {answer.status for answer in declared_answers(route)}
    if "precondition-failed" in problem_codes(route):
        yield from ("If-None-Match", "If-Match")
    if 206 in statuses:
        yield from ("Range", "If-Range")


def for_route(route: Route) -> dict[str, Schema]:
    """Return the Responses Object of a route."""
    found: dict[str, Schema] = {}
    for answer in declared_answers(route):
        response = found.setdefault(str(answer.status), _response(route, answer))
        response.get("content", {}).update(_content(route, answer))
    for codes in problems_by_status(route):
        found[str(STATUSES[codes[0]])] = {"$ref": f"#/components/responses/{component_name(codes)}"}
    return found


def problems_by_status(route: Route) -> list[list[str]]:
    """Return the kinds of problem that a route may answer with, those of one status together."""
    by_status = sorted(problem_codes(route), key=STATUSES.__getitem__)
    return [list(codes) for _, codes in groupby(by_status, STATUSES.__getitem__)]


def component_name(codes: list[str]) -> str:
    """Return the name of the component that describes these problems of one status."""
    return ".".join([str(STATUSES[codes[0]]), *codes])


def problem_response(codes: list[str]) -> Schema:
    """Return the Response Object of these problems, which have the same status."""
    status = STATUSES[codes[0]]
    types = [f"/problems/{code}" for code in codes]
    # Which types are possible is listed beside the schema, because generators would make a type of each combination.
    schema = {"$ref": "#/components/schemas/Problem"}
    example = {"type": types[0], "title": codes[0].replace("-", " ").capitalize(), "status": status, "detail": "…"}
    lines = [
        f"`{problem_type}`: {descriptions.problem(code)}" for problem_type, code in zip(types, codes, strict=True)
    ]
    return {
        "description": "\n\n".join(lines),
        "headers": _header_objects(sorted(_problem_headers(status, codes))),
        "content": {_PROBLEM: {"schema": schema, "example": example}},
        "x-problem-types": types,
    }


def _implied_problems(route: Route) -> Iterator[str]:
    """Yield the problems that follow from the rest of the row."""
    statuses = {answer.status for answer in declared_answers(route)}
    if route.content_type:
        yield "not-acceptable"
    if "{id:" in route.path:
        yield from ("not-found", "no-such-job")
    if "{keeper:" in route.path:
        yield "not-found"
    if 304 in statuses:
        yield "precondition-failed"
    if 206 in statuses:
        yield "range-not-satisfiable"
    if "cursor" in route.parameters.split():
        yield "bad-cursor"
    if route.access not in (Access.PUBLIC, Access.HOST_CHECKED):
        yield from (
            "token-needed",
            "not-this-user",
            "too-many-wrong-tokens",
            "too-many-requests",
            "too-many-connections",
            "network-not-allowed",
        )
        if route.access in REQUIRED_SCOPES:
            yield "insufficient-scope"
        if route.verb != "GET":
            yield from ("audit-unavailable", "body-too-slow", "too-large", "unsupported-media-type")
    if route.body not in (None, bytes):
        yield "malformed-json"


def _response(route: Route, answer: Answer) -> Schema:
    response: Schema = {"description": HTTPStatus(answer.status).phrase}
    if headers := sorted([*_response_headers(route, answer), *_browser_headers(route)]):
        response["headers"] = _header_objects(headers)
    if content := _content(route, answer):
        response["content"] = content
    return response


def _content(route: Route, answer: Answer) -> dict[str, Schema]:
    content = answer.content
    if content == SSE:
        # OpenAPI 3.1 does not define how to describe a stream. This is the schema of one event, 3.2's `itemSchema`.
        events = [_event(name, document) for name, document in EVENTS["{id" in route.path].items()]
        return {SSE: {"schema": {"oneOf": events}}}
    if content == JSON:
        return {JSON: {"schema": {"type": "object"}}}
    if "/" in content:
        return {content: {"schema": _STRING}}
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{content}"}}} if content else {}


def _response_headers(route: Route, answer: Answer) -> Iterator[tuple[str, bool]]:
    """Yield the headers of a response, and whether it always has them."""
    status, content = answer
    statuses = {each.status for each in declared_answers(route)}
    if 304 in statuses and status in (200, 206, 304):
        yield "ETag", "Prefer" not in route.headers
    if status in (201, 202, 303, 308) and content != "SubmittedJobs":
        yield "Location", True
    if status == 200 and 303 in statuses:
        yield "Retry-After", False
    if status == 200 and 202 in statuses:
        yield "Content-Location", True
        yield "Location", False
    if "Prefer" in route.headers:
        yield "Preference-Applied", status == 200 and 202 in statuses
        yield "Vary", False
    yield from _negotiation_headers(route, status)
    if status == 200 and "cursor" in route.parameters.split():
        yield "Link", False
    if content == SSE or (content == TEXT and "follow" in route.parameters.split()):
        yield "X-Accel-Buffering", True
    if content == TEXT and "follow" in route.parameters.split():
        yield "Accept-Ranges", True
    if content == HTML != route.content_type:
        yield "Content-Security-Policy", False
    if route.content_type == HTML or (route.content_type == TEXT and "{id" in route.path):
        yield "Content-Security-Policy", True
    if 206 in statuses:
        yield "Accept-Ranges", True
        yield "Content-Disposition", False
    if status == 206:
        yield "Content-Range", True


def _browser_headers(route: Route) -> Iterator[tuple[str, bool]]:
    """Yield the headers that only browsers heed, beside those of every response."""
    if (route.verb, route.path) == ("DELETE", "/api/session"):
        yield "Clear-Site-Data", True


def _negotiation_headers(route: Route, status: int) -> Iterator[tuple[str, bool]]:
    """Yield the headers of a response that depends on what the client accepts."""
    is_encoded = "Accept-Encoding" in route.headers
    contents = {each.content for each in declared_answers(route) if each.status == status}
    if (len(contents) > 1 and not route.alternative) or (is_encoded and status in (200, 304)):
        yield "Vary", True
    if is_encoded and status == 200:
        yield "Content-Encoding", False


def _problem_headers(status: int, codes: list[str]) -> Iterator[tuple[str, bool]]:
    """Yield the headers of a response with one of these problems, and whether it always has them."""
    if status == 503:
        yield "Retry-After", True
    if "too-many-requests" in codes:
        yield "Retry-After", "too-many-streams" not in codes
    if "token-needed" in codes or "insufficient-scope" in codes:
        yield "WWW-Authenticate", status == 401
    if "range-not-satisfiable" in codes:
        yield "Content-Range", True
    if "method-not-allowed" in codes:
        yield "Allow", True
    if "unsupported-media-type" in codes:
        yield "Accept-Post", False
        yield "Accept-Encoding", False


def _header_objects(headers: list[tuple[str, bool]]) -> dict[str, Schema]:
    found = {}
    for name, required in headers:
        schema, description = HEADERS[name]
        found[name] = {"description": description, "required": required, "schema": schema}
    return found


def _event(name: str, document: str) -> Schema:
    data = {"contentMediaType": JSON, "contentSchema": {"$ref": f"#/components/schemas/{document}"}}
    keys = {"event": {"const": name}, "data": {"type": "string", **data}, "id": _STRING, "retry": _COUNT}
    return {"type": "object", "properties": keys, "required": ["event", "data"], "additionalProperties": False}
