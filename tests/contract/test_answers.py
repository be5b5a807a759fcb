"""Real responses, compared with the OpenAPI document of the service that sent them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from shellrunner.web import ROUTES
from shellrunner.web.openapi import parameter_objects

# What every answer may have, and the document says once for all.
COMMON_HEADERS = {
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "cross-origin-resource-policy",
    "cross-origin-opener-policy",
    "permissions-policy",
    "date",
    "referrer-policy",
    "server",
    "transfer-encoding",
    "x-content-type-options",
}
PATTERNS = {
    re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))): path
    # What has no variable first: /api/queues/pause is no queue's name.
    for path in sorted(
        {parameter_objects.path_template(row.path) for row in ROUTES}, key=lambda path: path.count("{")
    )
}


@pytest.fixture(scope="session")
def document(exchanges: Any) -> Any:
    """Return the document that the service served."""
    return next(each.json for each in exchanges if each.path == "/api/openapi.json" and each.status == 200)


def place(exchange: Any) -> Any:
    """Return the path of the route that responded, or None."""
    return next((path for pattern, path in PATTERNS.items() if pattern.fullmatch(exchange.path)), None)


def described(document: Any, exchange: Any) -> Any:
    """Return the description of this response."""
    operation = document["paths"][place(exchange)]["get" if exchange.verb == "HEAD" else exchange.verb.lower()]
    about = operation["responses"][str(exchange.status)]
    return document["components"]["responses"][about["$ref"].rpartition("/")[2]] if "$ref" in about else about


def routed(exchanges: Any) -> list[Any]:
    """Return the exchanges that an operation responded to."""
    return [each for each in exchanges if place(each) and each.verb != "OPTIONS" and each.status != 405]


@pytest.mark.heavy
def test_the_tour_goes_everywhere(exchanges: Any) -> None:
    """The tour has every route, and every status that the API uses."""
    been = {(each.verb, place(each)) for each in exchanges}
    assert {(row.verb, parameter_objects.path_template(row.path)) for row in ROUTES} <= been
    statuses = {
        200,
        202,
        204,
        206,
        303,
        304,
        400,
        403,
        404,
        405,
        406,
        409,
        410,
        412,
        413,
        415,
        416,
        417,
        421,
        422,
        431,
    }
    assert statuses <= {each.status for each in exchanges}


def test_every_status_and_header_is_described(exchanges: Any, document: Any) -> None:
    """No response has a status or header that is not described, or lacks one that is required."""
    for each in routed(exchanges):
        about = described(document, each).get("headers", {})
        had = {name.lower() for name, _ in each.headers}
        assert had - COMMON_HEADERS <= {name.lower() for name in about}, str(each)
        assert {name.lower() for name, header in about.items() if header["required"]} <= had, str(each)


def test_every_body_is_as_described(exchanges: Any, document: Any) -> None:
    """Every media type is described, and JSON and events match their schemas, without additional keys."""
    for each in routed(exchanges):
        content = described(document, each).get("content", {})
        if each.verb == "HEAD" or not content:
            assert each.body == b"", str(each)
            continue
        assert each.media_type in content, str(each)
        schema = content[each.media_type]["schema"]
        for value in values(each):
            validate(document, schema, value, str(each))


def values(exchange: Any) -> Iterator[Any]:
    """Yield what has a schema in the body: a document, or every event with its data."""
    if exchange.media_type.endswith("json"):
        yield exchange.json
    if exchange.media_type == "text/event-stream":
        for block in exchange.body.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in fields:
                yield fields | ({"retry": int(fields["retry"])} if "retry" in fields else {})


def validate(document: Any, schema: Any, value: Any, what: Any) -> None:
    """Validate the value, and the data of an event by the schema of its event."""
    whole = {**schema, "components": document["components"]}
    errors = list(jsonschema_rs.Draft202012Validator(whole, validate_formats=True).iter_errors(value))
    assert errors == [], (what, [(error.message, error.instance_path) for error in errors])
    for event in schema.get("oneOf", ()):
        if "event" in event.get("properties", {}) and event["properties"]["event"]["const"] == value["event"]:
            validate(document, event["properties"]["data"]["contentSchema"], json.loads(value["data"]), what)


def test_every_problem_is_what_it_says(exchanges: Any, document: Any) -> None:
    """Every error is a problem with the status of the response, and of a type that is described for it."""
    for each in routed(exchanges):
        if each.status >= 400 and each.verb != "HEAD":
            assert each.json["type"] in described(document, each)["x-problem-types"], str(each)
    for each in exchanges:
        if each.status >= 400 and each.verb != "HEAD":
            assert each.media_type == "application/problem+json", str(each)
            assert each.json["status"] == each.status, str(each)
            assert each.json["type"].startswith("/problems/"), str(each)
