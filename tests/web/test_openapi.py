"""The OpenAPI document, compared with the router and the models."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from shellrunner.config import load
from shellrunner.errors import ShellrunnerError
from shellrunner.model import JobSpec
from shellrunner.web import ROUTES, Route
from shellrunner.web.http.problems import STATUSES
from shellrunner.web.openapi import descriptions, document, examples, parameter_objects, response_objects
from shellrunner.web.openapi.links import LINKS
from tests.support.site import Site

SIGNALS = ("SIGHUP", "SIGTERM")
DOCUMENT = document.build(ROUTES, load(), SIGNALS)
OPERATIONS = {
    (verb, path): about
    for path, verbs in DOCUMENT["paths"].items()
    for verb, about in verbs.items()
    if verb != "head"
}
BODIES = {row.body.__name__ for row in ROUTES if row.body is not None}
each_route = pytest.mark.parametrize(
    "row", ROUTES, ids=lambda row: f"{row.verb} {parameter_objects.path_template(row.path)}"
)


def described(row: Route) -> dict[str, Any]:
    found: dict[str, Any] = OPERATIONS[row.verb.lower(), parameter_objects.path_template(row.path)]
    return found


def named(row: Route, place: str) -> set[str]:
    return {each["name"] for each in described(row)["parameters"] if each["in"] == place}


def resolved(about: Any) -> Any:
    """Return what a reference refers to, or the object itself."""
    while "$ref" in about:
        found: Any = DOCUMENT
        for word in about["$ref"].removeprefix("#/").split("/"):
            found = found[word]
        about = found
    return about


def schemas(about: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema inside this one."""
    if isinstance(about, dict):
        yield about
        for each in about.values():
            yield from schemas(each)
    if isinstance(about, list):
        for each in about:
            yield from schemas(each)


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        {"$ref": "#/x", "x": schema, "components": DOCUMENT["components"]}, validate_formats=True
    )


async def test_every_route_of_the_router_is_described_and_nothing_else(site: Site) -> None:
    """The document has the paths and verbs of the router, except HEAD, which is served wherever GET is."""
    served = {
        (route.method.lower(), route.resource.canonical) for route in site.app.router.routes() if route.resource
    }
    assert {each for each in served if each[0] != "head"} == set(OPERATIONS)
    gets = {path for verb, path in OPERATIONS if verb == "get"}
    assert {path for verb, path in served if verb == "head"} == gets


@each_route
def test_every_parameter_of_a_route_is_described(row: Route) -> None:
    """The described parameters are those of the route's query, path and headers, no others."""
    assert named(row, "query") == set(row.parameters.split())
    assert named(row, "path") == set(parameter_objects.variables(row.path))
    assert set(row.headers.split()) <= named(row, "header")


@each_route
def test_every_route_says_what_it_is_for_and_what_it_answers(row: Route) -> None:
    """The handler's docstring begins with verb and path and has a summary; the row has a success or a redirect."""
    first = (row.handler.__doc__ or "").partition("\n")[0]
    about = described(row)
    assert first.startswith(f"{row.verb} /"), first
    assert about["summary"], first
    assert any(status.startswith("2") or status == "308" for status in about["responses"])
    words = {word.partition(":")[0] for word in row.answers.split()}
    assert {word for word in words if not word.isdecimal()} <= set(STATUSES)
    assert {word for word in words if word.isdecimal()} <= set(about["responses"])


def test_every_operation_has_a_name_of_its_own() -> None:
    """Every operationId is unique, and links name existing ones."""
    names = [about["operationId"] for about in OPERATIONS.values()]
    assert len(names) == len(set(names))
    linked = {
        link["operationId"]
        for about in OPERATIONS.values()
        for response in about["responses"].values()
        for link in response.get("links", {}).values()
    }
    assert (
        {"get-statuses-id", "get-results-id", "get-statuses-id-events", "post-jobs-id-cancel"} <= linked <= set(names)
    )
    assert set(LINKS) <= set(names)


def test_every_problem_is_described_and_some_route_has_it() -> None:
    """Every problem type is described in the document, and some operation answers with it."""
    kinds = resolved({"$ref": "#/components/schemas/Problem"})["properties"]["type"]
    assert kinds["enum"] == [f"/problems/{code}" for code in STATUSES]
    for code in STATUSES:
        assert descriptions.problem(code) in kinds["description"]
    nobodys = set(STATUSES) - {code for row in ROUTES for code in response_objects.problem_codes(row)}
    assert nobodys == {"method-not-allowed"}  # of a method that is no operation


def test_generators_find_one_type_for_each_name() -> None:
    """No default is null or makes a key required, no name needs quotes, and all problems have one schema."""
    components = DOCUMENT["components"]
    assert [each for each in schemas(DOCUMENT) if "default" in each and each["default"] is None] == []
    assert [each for each in schemas(components["schemas"]) if "default" in each] == []
    assert [name for name in components["schemas"] if not re.fullmatch(r"[A-Z][A-Za-z]+", name)] == []
    assert [name for name, schema in components["schemas"].items() if isinstance(schema.get("title"), str)] == []
    problems = [response["content"]["application/problem+json"] for response in components["responses"].values()]
    assert problems
    assert {each["schema"]["$ref"] for each in problems} == {"#/components/schemas/Problem"}


def test_no_error_is_left_without_a_problem() -> None:
    """Every error that reaches clients has its code in the table of problems."""
    local = {"internal", "state-locked", "config"}
    assert {each.code for each in ShellrunnerError.__subclasses__()} - local <= set(STATUSES)


def test_what_a_client_sends_is_limited() -> None:
    """Strings, lists and integers in bodies have limits in the document, as have lists and integers in queries."""
    asked = [each["schema"] for about in OPERATIONS.values() for each in about["parameters"]]
    bodies = [about for name, about in DOCUMENT["components"]["schemas"].items() if name.startswith((*BODIES,))]
    assert len(bodies) >= len(BODIES)
    unlimited = [
        each for root in asked for each in schemas(root) if each.get("type") != "string" and not limited(each)
    ]
    assert unlimited == []  # strings there are limited by those of the request line and of headers: 431
    assert [each for root in bodies for each in schemas(root) if not limited(each)] == []


def limited(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    if kind == "string":
        return any(word in schema for word in ("maxLength", "enum", "const", "format"))
    if kind == "integer":
        return "maximum" in schema or "enum" in schema
    return kind != "array" or "maxItems" in schema


@pytest.mark.parametrize(
    ("name", "value"), [(kind, value["value"]) for kind, each in examples.BODIES.items() for value in each.values()]
)
def test_examples_are_right(name: str, value: Any) -> None:
    """Every example of a body matches its schema and its model."""
    validator(resolved({"$ref": f"#/components/schemas/{name}"})).validate(value)
    if name == "JobSpec":
        JobSpec.model_validate(value)


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"command": "a", "argv": ["b"]},
        {"command": None},
        {"command": ""},
        {"command": "a\0b"},
        {"command": "a", "cwd": "tmp"},
        {"command": "a", "env": {"": "x"}},
        {"command": "a", "env": {"SHELLRUNNER_JOB": "x"}},
        {"command": "a", "env": {"A": 5}},
        {"command": "a", "labels": {"a b": "x"}},
        {"command": "a", "labels": {"a": "x" * 256}},
        {"command": "a", "timeout": 0},
        {"command": "a", "priority": 1001},
        {"command": "a", "queue": "no where"},
        {"command": "a", "encoding": "utf-7"},
        {"command": "a", "limits": {"output_bytes": 1 << 50}},
        {"command": "a", "after": [0]},
        {"command": "a", "start_at": "tomorrow"},
        {"command": "a", "retries": {"max": 0}},
        {"command": "a", "retries": {}},
        {"command": "a", "notify": {"url": "https://example.org/"}},
        {"command": "a", "tty": {"rows": 0}},
        {"command": "a", "stdin": {"stream": False}},
        {"command": "a", "more": 1},
        {"command": "a"},
        {"argv": ["a"]},
        {"command": "a", "argv": None, "tty": None, "labels": None, "priority": None},
        {"command": "a", "tty": True},
        {"command": "a", "tty": False},
        {"command": "a", "tty": {"rows": 5}},
        {"command": "a", "stdin": {"stream": True}},
        {"command": "a", "retries": {"max": 1, "delay": None}},
    ],
    ids=lambda job: json.dumps(job)[:60],
)
async def test_the_schema_of_a_job_and_the_model_agree(site: Site, job: dict[str, Any]) -> None:
    """The schema rejects exactly what the service rejects."""
    answer = await site.ask("POST", "/api/jobs", json=job)
    check = validator({"$ref": "#/components/schemas/JobSpec"})
    assert check.is_valid(job) == (answer.status == 202), answer.body


@pytest.mark.parametrize(
    "patch",
    [
        {},
        {"command": "a"},
        {"argv": ["a"]},
        {"argv": None, "command": "a"},
        {"argv": ["a"], "command": None},
        {"env": {"A": "b"}, "labels": {"a": None}},
        {"argv": ["a"], "command": "a"},
        {"command": ""},
        {"env": {"A": 5}},
        {"more": 1},
    ],
    ids=lambda patch: json.dumps(patch)[:60],
)
async def test_the_schema_of_a_repetition_and_the_service_agree(site: Site, patch: dict[str, Any]) -> None:
    """The schema rejects exactly what the service rejects for any earlier job."""
    job = (await site.ask("POST", "/api/jobs", json={"command": "true"})).json["job_id"]
    answer = await site.ask("POST", f"/api/jobs/{job}/again", json=patch)
    check = validator({"$ref": "#/components/schemas/AgainRequest"})
    assert check.is_valid(patch) == (answer.status == 202), answer.body


@pytest.mark.heavy
async def test_it_is_served_with_a_version(site: Site) -> None:
    """The index links to the document, and its ETag stays the same."""
    link = (await site.get("/api")).json["openapi"]
    answer = await site.get(link)
    assert answer.status == 200
    assert answer.json["openapi"].startswith("3.1.")
    assert (await site.get(link, headers={"If-None-Match": answer.headers["ETag"]})).status == 304
    assert "Привет".encode() in answer.body


@pytest.mark.heavy
async def test_config_is_in_it() -> None:
    """The document allows the configured profiles, limits and callback hosts."""
    secret = "whsec_" + "A" * 32
    settings = load(
        None,
        profiles={"untrusted": {}},
        jobs={"memory_bytes": 1 << 20},
        callbacks={"hosts": ["example.org"], "secret": secret},
    )
    shapes = document.build(ROUTES, settings, SIGNALS)["components"]["schemas"]
    assert "enum" not in shapes["JobSpec"]["properties"]["queue"]["anyOf"][0], "they may be made at run time"
    assert shapes["JobSpec"]["properties"]["profile"]["anyOf"][0]["enum"] == ["untrusted"]
    assert DOCUMENT["components"]["schemas"]["JobSpec"]["properties"]["profile"]["type"] == "null"
    assert shapes["JobSpecLimits"]["properties"]["memory_bytes"]["anyOf"][0]["maximum"] == 1 << 20
    assert "url" in shapes["JobSpecNotify"]["properties"]
