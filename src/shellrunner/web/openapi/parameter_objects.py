"""What each parameter may hold and means: of paths, queries and headers, by name.

Used by the OpenAPI document. Must not know how a parameter is read.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from shellrunner.model import Ending, State, Stream
from shellrunner.web.handlers import lists
from shellrunner.web.http.parameters import LABELS, SEVERAL
from shellrunner.web.route import Route
from shellrunner.wire.documents import TIME

Schema = dict[str, Any]

_VARIABLE = re.compile(r"\{(\w+)(?::(?:[^{}]|\{[^{}]*\})*)?\}")
_MOST = 10**18 - 1
_OFFSET: Final[Schema] = {"type": "integer", "format": "int64", "minimum": 0, "maximum": _MOST}
_YES_OR_NO: Final[Schema] = {"type": "string", "enum": ["true", "false", "1", "0", ""]}
_TIME: Final[Schema] = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,12})?([Zz]|[+-]\d\d:\d\d)$",
    "maxLength": 38,
}
_SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
_TEXT: Final[Schema] = {"type": "string"}
_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,63}$", "maxLength": 63}
_EVENT_ID: Final[Schema] = {"type": "string", "pattern": r"^(end|[0-9]{1,19}(\.[0-8]\.[0-8])?)?$", "maxLength": 23}


def _some(items: Schema, most: int = SEVERAL) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def _words(words: Any) -> Schema:
    return {"type": "string", "enum": [str(word) for word in words]}


PATH: Final[dict[str, tuple[Schema, str, Any]]] = {
    "id": (
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": _MOST},
        "of the job, its status and its result",
        45,
    ),
    "number": (
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": _MOST},
        "of the attempt, counted from 1",
        1,
    ),
    "name": (_NAME, "of a queue that config names", "default"),
    "version": ({"type": "string", "pattern": "^[0-9a-f]{18}$", "maxLength": 18}, "of all that the page loads", None),
    "file": ({"type": "string", "pattern": "^[a-z0-9./-]+$", "maxLength": 64}, "what of it", "main.js"),
}

REQUIRED: Final = {"confirm"}  # of queries

# By name; where one means something else on some path, by path and name.
QUERY: Final[dict[str, tuple[Schema, str, Any]]] = {
    "q": (_TEXT, "a part of the command, in any case", "привет"),
    "state": (_some(_words(State)), "some of the states", ["queued", "running"]),
    "ending": (_some(_words(Ending)), "some of the endings", ["exited"]),
    "exit_code": (
        _some({"type": "integer", "format": "int64", "minimum": 0, "maximum": 255}),
        "some exit codes",
        [1, 2],
    ),
    "queue": (_some(_NAME), "some queues", ["default"]),
    "label": (
        _some({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,63}:", "maxLength": 319}, LABELS),
        "a label that the job has, as `key:value`; may be repeated, and all must be there",
        ["team:ops"],
    ),
    "created_after": (_TIME, "accepted then or later", TIME),
    "created_before": (_TIME, "accepted earlier", TIME),
    "completed_after": (_TIME, "over then or later", TIME),
    "completed_before": (_TIME, "over earlier", TIME),
    "min_duration": (_SECONDS, "seconds, at least", 0.5),
    "max_duration": (_SECONDS, "seconds, at most", 60),
    "limit": (
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": 1000, "default": 100},
        "rows of a page, at most",
        100,
    ),
    "cursor": (
        {"type": "string", "pattern": "^[A-Za-z0-9_=-]+$", "maxLength": 8000},
        "from `next` of this list",
        None,
    ),
    "confirm": (_words(["true"]), "without it nothing is deleted", "true"),
    "stream": (_words(Stream), "one of the two only", "stdout"),
    "tail": ({"type": "integer", "format": "int64", "minimum": 0, "maximum": 10**15}, "so many last lines", 10),
    "follow": (_YES_OR_NO, "go on until the job is done", "true"),
    "download": (_YES_OR_NO, "as an attachment", "true"),
    "encoding": ({**_words(["text", "base64"]), "default": "text"}, "how events tell output", "base64"),
    "last_event_id": (_EVENT_ID, "for a first connection; the header goes before it", "17"),
    "end": (_YES_OR_NO, "close standard input after these bytes", "true"),
    "offset": (_OFFSET, "how many bytes of input were given before", 0),
    "/api/statuses/events last_event_id": (_TEXT, "for a first connection; the header goes before it", None),
}

for _kind in (lists.JOBS, lists.STATUSES, lists.RESULTS):
    _keys = [f"{sign}{key}" for key in _kind.keys for sign in ("", "-")]
    QUERY[f"/api/{_kind.name} sort"] = (
        {**_some(_words(_keys), len(_kind.keys)), "uniqueItems": True},
        "the keys to sort by, each once, with `-` descending; null comes last, ties go by id",
        ["-created"],
    )
    QUERY[f"/api/{_kind.name} fields"] = (
        _some(_words(sorted(_kind.fields)), 1000),
        "the only keys that each row is to have",
        ["job_id"],
    )

HEADERS: Final[dict[str, tuple[Schema, str, Any]]] = {
    "Prefer": (_TEXT, "`wait=N`: answer once the job is done, or after N seconds, at most 60 (RFC 7240)", "wait=5"),
    "Idempotency-Key": (
        {"type": "string", "pattern": r'^("([!#-\[\]-~]|\\["\\]){1,255}"|[!#-~][!-~]{0,254})$', "maxLength": 512},
        "a request that comes twice with the same key and an equal body makes one job; kept for 24 hours",
        '"9f1c8b52"',
    ),
    "Last-Event-ID": (_EVENT_ID, "the last event that was received: the stream goes on with the next byte", "17"),
    "/api/statuses/events Last-Event-ID": (_TEXT, "the last change that was received", None),
    "Accept-Encoding": (_TEXT, "with `gzip` it comes packed", "gzip"),
    "If-None-Match": (
        _TEXT,
        "versions that the client has: if one of them is still right, 304 to GET and HEAD, 412 to others",
        '"0f343b0931126a20"',
    ),
    "If-Match": (_TEXT, "versions that the client means: 412 if it is none of them", '"0f343b0931126a20"'),
    "Range": (_TEXT, "one range of bytes; what is not understood, or several, is all", "bytes=0-99"),
    "If-Range": (_TEXT, "the version of which a range is wanted, else all", '"0f343b0931126a20"'),
}


def of(row: Route, headers: Iterator[str]) -> list[Schema]:
    """The parameters of a route, with these of its headers."""
    path = plain(row.path)
    found = [_parameter("path", name, *PATH[name]) for name in variables(row.path)]
    found += [_query(name, *_meant(QUERY, path, name)) for name in row.parameters.split()]
    return found + [_parameter("header", name, *_meant(HEADERS, path, name)) for name in headers]


def plain(path: str) -> str:
    """The path of a route without the patterns of its variables."""
    return _VARIABLE.sub(r"{\1}", path)


def variables(path: str) -> list[str]:
    """The variables in the path of a route."""
    return [found[1] for found in _VARIABLE.finditer(path)]


def _meant(table: dict[str, tuple[Schema, str, Any]], path: str, name: str) -> tuple[Schema, str, Any]:
    return table.get(f"{path} {name}") or table[name]


def _query(name: str, schema: Schema, words: str, example: Any) -> Schema:
    parameter = _parameter("query", name, schema, words, example)
    if schema["type"] == "array" and name != "label":
        parameter |= {"style": "form", "explode": False}
    if schema is _YES_OR_NO:
        parameter["allowEmptyValue"] = True
    return parameter


def _parameter(place: str, name: str, schema: Schema, words: str, example: Any) -> Schema:
    about: Schema = {"name": name, "in": place, "description": words, "schema": schema}
    if place == "path" or name in REQUIRED:
        about["required"] = True
    return about if example is None else {**about, "example": example}
