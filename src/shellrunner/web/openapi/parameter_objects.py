"""The Parameter Objects of each route: schema, description and example of path, query and header parameters.

Used by the other modules of this package. Must not know how a parameter is read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from shellrunner.model import Stream
from shellrunner.model.filters import FILTERS
from shellrunner.model.names import MAX_JOB_ID, MAX_NAME_LENGTH, NAME_PATTERN
from shellrunner.web.handlers import lists, output_search
from shellrunner.web.route import Route

Schema = dict[str, Any]

_VARIABLE = re.compile(r"\{(\w+)(?::(?:[^{}]|\{[^{}]*\})*)?\}")
_OFFSET: Final[Schema] = {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_JOB_ID}
_FLAG: Final[Schema] = {"type": "string", "enum": ["true", "false", "1", "0", ""]}
_TEXT: Final[Schema] = {"type": "string"}
_NAME: Final[Schema] = {"type": "string", "pattern": f"^{NAME_PATTERN}$", "maxLength": MAX_NAME_LENGTH}
_EVENT_ID: Final[Schema] = {"type": "string", "pattern": r"^(end|[0-9]{1,19}(\.[0-8]\.[0-8])?)?$", "maxLength": 23}


def _array(items: Schema, max_items: int) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": max_items}


def _enum(values: Any) -> Schema:
    return {"type": "string", "enum": [str(value) for value in values]}


# Filters by what documents have under a named schema, so that generated clients have one type for both.
_NAMED_VALUES: Final = {"state": "StateName", "ending": "EndingName"}


def _filter_schema(parameter: str, schema: Mapping[str, Any]) -> Schema:
    name = _NAMED_VALUES.get(parameter)
    return {**schema, "items": {"$ref": f"#/components/schemas/{name}"}} if name else {**schema}


PATH: Final[dict[str, tuple[Schema, str, Any]]] = {
    "id": (
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_JOB_ID},
        "The id of the job, its status and its result.",
        45,
    ),
    "keeper": (
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_JOB_ID},
        "The number of the keeper.",
        1,
    ),
    "number": (
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_JOB_ID},
        "The number of the attempt, counted from 1.",
        1,
    ),
    "name": (_NAME, "The name of a queue.", "default"),
    "host": (_NAME, "The name of a host.", "build-1"),
    "version": (
        {"type": "string", "pattern": "^[0-9a-f]{18}$", "maxLength": 18},
        "The version of the page and everything that it loads.",
        None,
    ),
    "file": ({"type": "string", "pattern": "^[a-z0-9./-]+$", "maxLength": 64}, "The path of the file.", "main.js"),
    "page": (
        {"type": "string", "pattern": "^([a-z0-9_-]+[./])*[a-z0-9_-]*$", "maxLength": 128},
        "The path of the page, or of a file that it loads; a folder has the page `index.html`.",
        "index.html",
    ),
}

_REPEATABLE: Final = {info.parameter for info in FILTERS.values() if info.type.repeatable}
REQUIRED: Final = {"confirm"}  # query parameters

# By name; if a name means something else on one path, by path and name.
QUERY: Final[dict[str, tuple[Schema, str, Any]]] = {
    **{
        info.parameter: (_filter_schema(info.parameter, info.type.schema), info.description, info.example)
        for info in FILTERS.values()
    },
    "limit": (
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": 1000, "default": 100},
        "Maximum number of rows in a page.",
        100,
    ),
    "cursor": (
        {"type": "string", "pattern": "^[A-Za-z0-9_=-]+$", "maxLength": 8000},
        "Where the page begins; taken from `next` of the page before.",
        None,
    ),
    "confirm": (_enum(["true"]), "Confirms the deletion; without it nothing is deleted.", "true"),
    "/api/keepers/{keeper} host": (
        _NAME,
        "The host of the keeper; required if several hosts have one of this number.",
        "build-1",
    ),
    "/api/workers/{host} confirm": (
        _enum(["true"]),
        "Confirms the removal; without it nothing is removed.",
        "true",
    ),
    "/api/jobs/cancel confirm": (
        _enum(["true"]),
        "Confirms the cancellation; without it nothing is cancelled.",
        "true",
    ),
    "stream": (_enum(Stream), "Only this stream.", "stdout"),
    "from": (
        {"type": "integer", "format": "int64", "minimum": 0, "maximum": 10**15},
        "Begin after this many bytes of it, which were received before; at most its length so far. Not with `tail`.",
        0,
    ),
    "/api/statuses/{id}/output from": (
        {"type": "integer", "format": "int64", "minimum": 0, "maximum": 10**15},
        "Begin, or search, after this many bytes of it (with `backward` before them). Not with `tail`.",
        0,
    ),
    "/api/statuses/{id}/output/line from": (
        {"type": "integer", "format": "int64", "minimum": 0, "maximum": 10**15},
        "Return the line that has the byte at this position. Not with `number`.",
        None,
    ),
    "number": (
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": 10**15},
        "The number of the line, counted from 1; a larger one than the last means the last.",
        1,
    ),
    "find": (
        {"type": "string", "minLength": 1, "maxLength": output_search.MAX_TEXT},
        "A text to look for; the response is JSON. Not with `tail` or `follow`.",
        None,
    ),
    "match_case": (_FLAG, "With `find`: distinguish upper and lower case.", None),
    "backward": (_FLAG, "With `find`: search backward, from the end or from `from`.", None),
    "/api/statuses/{id}/output limit": (
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": 1000, "default": 100},
        "With `find`: maximum number of matches.",
        None,
    ),
    "tail": (
        {"type": "integer", "format": "int64", "minimum": 0, "maximum": 10**15},
        "Only the last lines, this many.",
        10,
    ),
    "follow": (_FLAG, "Continue until the job is done.", "true"),
    "download": (_FLAG, "Send the bytes as an attachment with a file name.", "true"),
    "encoding": (
        {**_enum(["text", "base64"]), "default": "text"},
        "How events hold output: as text, or as base64 of the exact bytes.",
        "base64",
    ),
    "last_event_id": (
        _EVENT_ID,
        "Where to resume, for a first connection; the header `Last-Event-ID` takes precedence.",
        "17",
    ),
    "writer": (
        _NAME,
        "The name of this client. While the one that types, the writer, follows the job, no other name may type.",
        "laptop-1",
    ),
    "take": (_FLAG, "Become the writer in place of another client.", "true"),
    "end": (_FLAG, "Close standard input after these bytes.", "true"),
    "offset": (
        _OFFSET,
        "How many bytes of input were sent before; if the service has received another number, it rejects these.",
        0,
    ),
    "/docs/{page} q": (_TEXT, "What the page `search.html` searches for; the service ignores it.", None),
    "area": (_TEXT, "Sent by the form of the search; the service ignores it.", None),
    "check_keywords": (_TEXT, "Sent by the form of the search; the service ignores it.", None),
    "v": (_TEXT, "The version of a file that a page loads; the service ignores it.", None),
    "/api/statuses/events last_event_id": (
        _TEXT,
        "Where to resume, for a first connection; the header `Last-Event-ID` takes precedence.",
        None,
    ),
}

for _resource in (lists.JOBS, lists.STATUSES, lists.RESULTS):
    _keys = [f"{sign}{key}" for key in _resource.sort_keys for sign in ("", "-")]
    QUERY[f"/api/{_resource.name} sort"] = (
        {**_array(_enum(_keys), len(_resource.sort_keys)), "uniqueItems": True},
        "The keys to sort by, each at most once; `-` sorts in descending order. Null is last, ties are broken by id.",
        ["-created"],
    )
    QUERY[f"/api/{_resource.name} fields"] = (
        _array(_enum(sorted(_resource.fields)), lists.MAX_FIELDS),
        "The only keys that each row has.",
        ["job_id"],
    )

HEADERS: Final[dict[str, tuple[Schema, str, Any]]] = {
    "Prefer": (_TEXT, "`wait=N`: respond once the job is done, or after N seconds, at most 55 (RFC 7240).", "wait=5"),
    "Idempotency-Key": (
        {"type": "string", "pattern": r'^("([!#-\[\]-~]|\\["\\]){1,255}"|[!#-~][!-~]{0,254})$', "maxLength": 512},
        "Requests with the same key and an equal body create one job. A key is remembered for 24 hours.",
        '"9f1c8b52"',
    ),
    "Last-Event-ID": (
        _EVENT_ID,
        "The id of the last event that was received; the stream continues with the next byte.",
        "17",
    ),
    "/api/statuses/events Last-Event-ID": (_TEXT, "The id of the last change that was received.", None),
    "Accept-Encoding": (_TEXT, "With `gzip` the body is compressed.", "gzip"),
    "If-None-Match": (
        _TEXT,
        "Versions that the client has. If one of them is current, GET and HEAD get 304, other methods 412.",
        '"0f343b0931126a20"',
    ),
    "If-Match": (
        _TEXT,
        "Versions to which the request applies; 412 if none of them is current.",
        '"0f343b0931126a20"',
    ),
    "Range": (
        _TEXT,
        "One range of bytes. Several ranges, or a value that is not understood, select all.",
        "bytes=0-99",
    ),
    "If-Range": (
        _TEXT,
        "The version to which `Range` applies; if another is current, all bytes are sent.",
        '"0f343b0931126a20"',
    ),
}


def for_route(route: Route, headers: Iterator[str]) -> list[Schema]:
    """Return the Parameter Objects of a route; `headers` are the request headers that have an effect on it."""
    path = path_template(route.path)
    found = [_parameter("path", name, *PATH[name]) for name in variables(route.path)]
    found += [_query(name, *_lookup(QUERY, path, name)) for name in route.parameters.split()]
    return found + [_parameter("header", name, *_lookup(HEADERS, path, name)) for name in headers]


def path_template(path: str) -> str:
    """Return the path of a route without the patterns of its variables, as OpenAPI has it."""
    return _VARIABLE.sub(r"{\1}", path)


def variables(path: str) -> list[str]:
    """Return the names of the variables in the path of a route."""
    return [match[1] for match in _VARIABLE.finditer(path)]


def _lookup(table: dict[str, tuple[Schema, str, Any]], path: str, name: str) -> tuple[Schema, str, Any]:
    return table.get(f"{path} {name}") or table[name]


def _query(name: str, schema: Schema, description: str, example: Any) -> Schema:
    parameter = _parameter("query", name, schema, description, example)
    if schema["type"] == "array" and name not in _REPEATABLE:
        parameter |= {"style": "form", "explode": False}
    if schema is _FLAG:
        parameter["allowEmptyValue"] = True
    return parameter


def _parameter(location: str, name: str, schema: Schema, description: str, example: Any) -> Schema:
    parameter: Schema = {"name": name, "in": location, "description": description, "schema": schema}
    if location == "path" or name in REQUIRED:
        parameter["required"] = True
    return parameter if example is None else {**parameter, "example": example}
