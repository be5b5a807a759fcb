"""The declarations of filters, and that the API, the CLI, the reference and the SQL follow from them."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shellrunner.cli.commands.inspection.ps import ps
from shellrunner.config import Settings
from shellrunner.model.filters import FILTERS, Comparison, FilterInfo, Filters
from shellrunner.store.pagination import SortKey
from shellrunner.store.query import index_scans
from shellrunner.web import ROUTES
from shellrunner.web.openapi import document
from shellrunner.web.security.middleware import REPEATABLE_PARAMETERS

ROUTES_PAGE = (Path(__file__).parent.parent / "docs/reference/routes.md").read_text()
LISTS = ("/api/jobs", "/api/statuses", "/api/results")

each_filter = pytest.mark.parametrize("field", FILTERS)


def parsed(info: FilterInfo) -> Any:
    """Return the value of the filter's own example."""
    examples = info.example if isinstance(info.example, list) else [info.example]
    texts = [str(example) for example in examples]
    return info.type.parse(texts if info.type.repeatable else [",".join(texts)])


@each_filter
def test_the_example_of_a_filter_is_valid(field: str) -> None:
    """Each documented example is parsed to a value that selects, and no filter selects by default."""
    assert parsed(FILTERS[field])
    assert not getattr(Filters(), field)


@each_filter
def test_a_filter_becomes_a_condition(field: str) -> None:
    """Each filter alone is a condition in SQL, apart from the text, which the search compares."""
    info = FILTERS[field]
    conditions = [*index_scans.conditions(Filters(**{field: parsed(info)}))]
    assert len(conditions) == (info.comparison is not Comparison.CONTAINS)
    assert [*index_scans.conditions(Filters())] == []


@pytest.fixture(scope="module")
def described() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the query parameters of each list in the OpenAPI document, by name, with the schemas of named values."""
    api = document.build(ROUTES, Settings(), [])
    schemas = {f"#/components/schemas/{name}": schema for name, schema in api["components"]["schemas"].items()}

    def resolved(parameter: Any) -> Any:
        schema = parameter["schema"]
        if "$ref" not in schema.get("items", {}):
            return parameter
        named = schemas[schema["items"]["$ref"]]
        return {**parameter, "schema": {**schema, "items": {key: named[key] for key in ("type", "enum")}}}

    return {
        path: {each["name"]: resolved(each) for each in api["paths"][path]["get"]["parameters"]} for path in LISTS
    }


@each_filter
@pytest.mark.parametrize("path", LISTS)
def test_every_list_describes_a_filter(described: Any, path: str, field: str) -> None:
    """The OpenAPI document has the filter's description, schema and example for every list."""
    info = FILTERS[field]
    parameter = described[path][info.parameter]
    assert (parameter["description"], parameter["schema"]) == (info.description, info.type.schema)
    assert parameter["example"] == info.example
    assert (parameter.get("explode", True) or not info.type.repeatable) is True
    assert (info.parameter in REPEATABLE_PARAMETERS) is info.type.repeatable


@each_filter
def test_the_cli_and_the_reference_name_a_filter(field: str) -> None:
    """The help of `--filter` names it, and the reference explains it."""
    help_text = " ".join(CliRunner().invoke(ps, ["--help"]).output.split())
    assert f" {FILTERS[field].parameter}" in help_text.partition("Only matching jobs:")[2]
    assert f"| `{FILTERS[field].parameter}` | query |" in ROUTES_PAGE


def test_bounds_of_a_key_are_those_of_its_filters() -> None:
    """A walk along a key is bounded by the filters that compare it, and by no others."""
    filters = Filters(created_from=5, created_until=9, min_duration=0.5, exit_codes=frozenset({1}))
    bounds = dict(index_scans.bounded_keys(filters))
    assert bounds == {
        SortKey.CREATED: (5, 8),
        SortKey.DURATION: (0.5, index_scans.UNBOUNDED[1]),
    }
