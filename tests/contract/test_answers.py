"""Real answers held against the OpenAPI document of the service that gave them."""

import json
import re

import jsonschema_rs
import pytest

from shellrunner.web import ROUTES
from shellrunner.web.openapi import parameter_objects

# What every answer may have, and the document says once for all.
EVERYWHERE = {
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "cross-origin-resource-policy",
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
def document(exchanges):
    """The document that the service served."""
    return next(each.json for each in exchanges if each.path == "/api/openapi.json" and each.status == 200)


def place(exchange):
    """The path of the route that answered, or None."""
    return next((path for pattern, path in PATTERNS.items() if pattern.fullmatch(exchange.path)), None)


def described(document, exchange):
    """What the document says of this answer."""
    operation = document["paths"][place(exchange)]["get" if exchange.verb == "HEAD" else exchange.verb.lower()]
    about = operation["responses"][str(exchange.status)]
    return document["components"]["responses"][about["$ref"].rpartition("/")[2]] if "$ref" in about else about


def routed(exchanges):
    """Those that some operation answered."""
    return [each for each in exchanges if place(each) and each.verb not in ("OPTIONS", "PUT")]


def test_the_tour_goes_everywhere(exchanges):
    """Every route is in it, and the statuses that HTTP has for what they do."""
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


def test_every_status_and_header_is_described(exchanges, document):
    """No answer has a status or a header that the document does not tell of, nor lacks one that it promises."""
    for each in routed(exchanges):
        about = described(document, each).get("headers", {})
        had = {name.lower() for name, _ in each.headers}
        assert had - EVERYWHERE <= {name.lower() for name in about}, str(each)
        assert {name.lower() for name, header in about.items() if header["required"]} <= had, str(each)


def test_every_body_is_as_described(exchanges, document):
    """Types are those of the document; JSON and events fit their schemas, with no key that these do not have."""
    for each in routed(exchanges):
        content = described(document, each).get("content", {})
        if each.verb == "HEAD" or not content:
            assert each.body == b"", str(each)
            continue
        assert each.media_type in content, str(each)
        schema = content[each.media_type]["schema"]
        for value in values(each):
            validate(document, schema, value, str(each))


def values(exchange):
    """What of the body has a schema: a document, or every event with its data."""
    if exchange.media_type.endswith("json"):
        yield exchange.json
    if exchange.media_type == "text/event-stream":
        for block in exchange.body.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in fields:
                yield fields | ({"retry": int(fields["retry"])} if "retry" in fields else {})


def validate(document, schema, value, what):
    """Hold the value against the schema; and the data of an event against the one that its event names."""
    whole = {**schema, "components": document["components"]}
    errors = list(jsonschema_rs.Draft202012Validator(whole, validate_formats=True).iter_errors(value))
    assert errors == [], (what, [(error.message, error.instance_path) for error in errors])
    for event in schema.get("oneOf", ()):
        if "event" in event.get("properties", {}) and event["properties"]["event"]["const"] == value["event"]:
            validate(document, event["properties"]["data"]["contentSchema"], json.loads(value["data"]), what)


def test_every_problem_is_what_it_says(exchanges):
    """Errors are problems with the status that was answered, and a type of the table."""
    for each in exchanges:
        if each.status >= 400 and each.verb != "HEAD":
            assert each.media_type == "application/problem+json", str(each)
            assert each.json["status"] == each.status, str(each)
            assert each.json["type"].startswith("/problems/"), str(each)
