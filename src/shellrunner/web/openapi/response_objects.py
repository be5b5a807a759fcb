"""What each route may answer: statuses, documents, headers, problems; most of it follows from the route's row.

Used by the OpenAPI document. Must not know how an answer is made.
"""

from collections.abc import Iterator
from http import HTTPStatus
from itertools import groupby
from typing import Any, Final, NamedTuple

from shellrunner.web.http.problems import STATUSES
from shellrunner.web.openapi import meanings
from shellrunner.web.route import HTML, JSON, SSE, TEXT, Access, Route
from shellrunner.web.security.authentication import NEEDS

Schema = dict[str, Any]

ANY: Final = (
    *("bad-request", "bad-parameter", "cross-site", "expectation-failed", "wrong-host", "headers-too-large"),
    *("internal", "store-unavailable", "shutting-down"),
)
# What any route may answer under any Host, and without a look at its query.
PROBE: Final = ("bad-request", "expectation-failed", "headers-too-large", "internal")
_PROBLEM: Final = "application/problem+json"

_STRING: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**31}
_LINK: Final[Schema] = {"type": "string", "format": "uri-reference"}
_ETAG: Final[Schema] = {"type": "string", "pattern": '^"[!#-~]+"$'}

# Headers of answers: what they may hold, and what they mean.
HEADERS: Final[dict[str, tuple[Schema, str]]] = {
    "Accept-Encoding": (_STRING, "how a body may be encoded"),
    "Accept-Post": (_STRING, "which types of body this route takes"),
    "Accept-Ranges": ({"const": "bytes"}, "a part of it may be asked for"),
    "Allow": (_STRING, "the methods that this path knows"),
    "Content-Encoding": ({"const": "gzip"}, "how it is packed"),
    "Content-Disposition": (_STRING, "the name under which it is saved, with `download`"),
    "Content-Location": (_LINK, "whose representation the body is"),
    "Content-Range": (_STRING, "which of all the bytes these are"),
    "Content-Security-Policy": (_STRING, "keeps browsers from acting on what a command wrote"),
    "ETag": (_ETAG, "this version"),
    "Link": (_STRING, 'the next page, if there is one: `<…>; rel="next"`'),
    "Location": (_LINK, "where to go on"),
    "Preference-Applied": (_STRING, "how long was waited at most, if that was preferred"),
    "Retry-After": (_COUNT, "seconds after which it is worth asking again"),
    "Vary": (_STRING, "on which headers of the request the answer depends"),
    "WWW-Authenticate": (_STRING, "how to be let in (RFC 6750)"),
    "X-Accel-Buffering": ({"const": "no"}, "keeps proxies from holding events back"),
}


# What the events of the two kinds of stream tell: of one job, and of all.
_OUTPUT = {"stdout": "OutputEvent", "stderr": "OutputEvent"}
EVENTS: Final = {
    True: {"status": "Status", **_OUTPUT, "dropped": "DroppedEvent", "done": "DoneEvent"},
    False: {"status": "Status", "deleted": "DeletedEvent", "reset": "ResetEvent"},
}


class Answer(NamedTuple):
    """A status, and the document or type that it carries, if any."""

    status: int
    carries: str


def told(row: Route) -> Iterator[Answer]:
    """The answers of a route that are no problems."""
    for word in row.answers.split():
        status, _, carries = word.partition(":")
        if status.isdecimal():
            bodiless = status in ("204", "304") or row.verb == "DELETE"
            yield Answer(int(status), carries or ("" if bodiless else row.content_type))


def codes(row: Route) -> list[str]:
    """The kinds of problem that a route may answer."""
    named = [word for word in row.answers.split() if word in STATUSES]
    wanted = {*(PROBE if row.access is Access.PUBLIC else ANY), *named, *_implied(row)}
    return [code for code in STATUSES if code in wanted]


def headers_of(row: Route) -> Iterator[str]:
    """The headers of a request that act on this route."""
    yield from row.headers.split()
    statuses = {answer.status for answer in told(row)}
    if "precondition-failed" in codes(row):
        yield from ("If-None-Match", "If-Match")
    if 206 in statuses:
        yield from ("Range", "If-Range")


def of(row: Route) -> dict[str, Schema]:
    """All answers of a route, by status."""
    found: dict[str, Schema] = {}
    for answer in told(row):
        about = found.setdefault(str(answer.status), _answer(row, answer))
        about.get("content", {}).update(_content(row, answer))
    refused = {str(STATUSES[kinds[0]]): name(kinds) for kinds in problems_of(row)}
    return found | {status: {"$ref": f"#/components/responses/{kinds}"} for status, kinds in refused.items()}


def problems_of(row: Route) -> list[list[str]]:
    """The kinds of problem that a route may answer, those of one status together."""
    return [list(kinds) for _, kinds in groupby(sorted(codes(row), key=STATUSES.__getitem__), STATUSES.__getitem__)]


def name(kinds: list[str]) -> str:
    """What an answer with one of these problems is called."""
    return ".".join([str(STATUSES[kinds[0]]), *kinds])


def problem(kinds: list[str]) -> Schema:
    """The answer that tells one of these problems, which have the same status."""
    status = STATUSES[kinds[0]]
    paths = [f"/problems/{code}" for code in kinds]
    narrowed = {"type": {"enum": paths}, "status": {"const": status}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, {"properties": narrowed}]}
    example = {"type": paths[0], "title": kinds[0].replace("-", " ").capitalize(), "status": status, "detail": "…"}
    return {
        "description": "\n\n".join(f"`{path}`: {meanings.of(code)}" for path, code in zip(paths, kinds, strict=True)),
        "headers": _headers(sorted(_of_problem(status, kinds))),
        "content": {_PROBLEM: {"schema": schema, "example": example}},
    }


def _implied(row: Route) -> Iterator[str]:
    statuses = {answer.status for answer in told(row)}
    if row.content_type:
        yield "not-acceptable"
    if "{id:" in row.path:
        yield from ("not-found", "no-such-job")
    if 304 in statuses:
        yield "precondition-failed"
    if 206 in statuses:
        yield "range-not-satisfiable"
    if "cursor" in row.parameters.split():
        yield "bad-cursor"
    if row.access not in (Access.PUBLIC, Access.HOST_CHECKED):
        yield from ("token-needed", "not-this-user", "too-many-wrong-tokens")
        if row.access in NEEDS:
            yield "insufficient-scope"
        if row.verb != "GET":
            yield from ("audit-unavailable", "body-too-slow", "too-large", "unsupported-media-type")
    if row.body not in (None, bytes):
        yield "malformed-json"


def _answer(row: Route, answer: Answer) -> Schema:
    status, carries = answer
    about: Schema = {"description": HTTPStatus(status).phrase}
    wanted = sorted(_of_answer(row, status, carries))
    if wanted:
        about["headers"] = _headers(wanted)
    content = _content(row, answer)
    return {**about, "content": content} if content else about


def _content(row: Route, answer: Answer) -> dict[str, Schema]:
    carries = answer.carries
    if carries == SSE:
        # OpenAPI 3.1 does not say how a stream is described. This is the schema of one event, 3.2's `itemSchema`.
        events = [_event(name, document) for name, document in EVENTS["{id" in row.path].items()]
        return {SSE: {"schema": {"oneOf": events}}}
    if carries == JSON:
        return {JSON: {"schema": {"type": "object"}}}
    if "/" in carries:
        return {carries: {"schema": _STRING}}
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{carries}"}}} if carries else {}


def _of_answer(row: Route, status: int, carries: str) -> Iterator[tuple[str, bool]]:
    """The headers of an answer, and whether it always has them."""
    statuses = {each.status for each in told(row)}
    fresh = 304 in statuses and status in (200, 206, 304)
    if fresh:
        yield "ETag", "Prefer" not in row.headers
    if status in (202, 303):
        yield "Location", True
    if status == 200 and 303 in statuses:
        yield "Retry-After", False
    if status == 200 and 202 in statuses:
        yield "Content-Location", True
        yield "Location", False
    if "Prefer" in row.headers:
        yield "Preference-Applied", status == 200 and 202 in statuses
        yield "Vary", False
    if len({each.carries for each in told(row) if each.status == status}) > 1:
        yield "Vary", True
    if status == 200 and "cursor" in row.parameters.split():
        yield "Link", False
    if carries == SSE:
        yield "X-Accel-Buffering", True
    if row.content_type == HTML or (row.content_type == TEXT and "{id" in row.path):
        yield "Content-Security-Policy", True
    if 206 in statuses:
        yield "Accept-Ranges", True
        yield "Content-Disposition", False
    if status == 206:
        yield "Content-Range", True
    if "Accept-Encoding" in row.headers:
        yield "Content-Encoding", False


def _of_problem(status: int, kinds: list[str]) -> Iterator[tuple[str, bool]]:
    if status == 503:
        yield "Retry-After", True
    if "too-many-wrong-tokens" in kinds:
        yield "Retry-After", len(kinds) == 1
    if "token-needed" in kinds or "insufficient-scope" in kinds:
        yield "WWW-Authenticate", status == 401
    if "range-not-satisfiable" in kinds:
        yield "Content-Range", True
    if "method-not-allowed" in kinds:
        yield "Allow", True
    if "unsupported-media-type" in kinds:
        yield "Accept-Post", False
        yield "Accept-Encoding", False


def _headers(wanted: list[tuple[str, bool]]) -> dict[str, Schema]:
    found = {}
    for key, always in wanted:
        schema, words = HEADERS[key]
        found[key] = {"description": words, "required": always, "schema": schema}
    return found


def _event(name: str, document: str) -> Schema:
    data = {"contentMediaType": JSON, "contentSchema": {"$ref": f"#/components/schemas/{document}"}}
    keys = {"event": {"const": name}, "data": {"type": "string", **data}, "id": _STRING, "retry": _COUNT}
    return {"type": "object", "properties": keys, "required": ["event", "data"], "additionalProperties": False}
