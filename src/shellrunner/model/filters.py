"""Filters: which jobs a list, a count or a bulk deletion selects, each declared once.

A field of `Filters` declares its query parameter, how that is parsed, what it is compared with, and how it is
documented. The web's parser, the OpenAPI document, the store's SQL and the help of the CLI's `--filter` follow from
the declarations. Must not know SQL or HTTP; standard library only, so that the CLI can import it without pydantic.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import isfinite
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple, get_origin, get_type_hints

from shellrunner.clock import Millis, parse_rfc3339
from shellrunner.model.endings import Ending
from shellrunner.model.job import State
from shellrunner.model.names import (
    MAX_EXIT_CODE,
    MAX_LABEL_LENGTH,
    MAX_LABELS,
    MAX_NAME_LENGTH,
    NAME_PATTERN,
    is_name,
)

MAX_VALUES: Final = 256  # of a filter that takes several, separated by commas
_EXIT_CODE: Final = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_INSTANT: Final = "2016-08-19T15:31:42.201Z"
_HAS_LABEL: Final = "A label that the job has, as `key:value`. May be repeated; the job must have all of them."


class Comparison(Enum):
    """How a job's value relates to the filter's."""

    CONTAINS = auto()  # the filter's text is part of it, in any case
    IN = auto()
    AT_LEAST = auto()
    AT_MOST = auto()
    BELOW = auto()
    HAS_LABELS = auto()  # all of them


class ValueType(NamedTuple):
    """How a filter's value is written in a query.

    `parse` turns every occurrence of the parameter into the field's value, or raises ValueError with the rest of a
    sentence that begins with the parameter's name. `schema` is the JSON Schema of the parameter.
    """

    parse: Callable[[Sequence[str]], Any]
    schema: Mapping[str, Any]
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class FilterInfo:
    """The declaration of one filter; `compared` names the property of a job, as its row has it."""

    parameter: str
    type: ValueType
    compared: str
    comparison: Comparison
    description: str
    example: Any


# Types -------------------------------------------------------------------------------------------------------------


def _single(parse: Callable[[str], Any], expected: str, schema: Mapping[str, Any]) -> ValueType:
    def parsed(texts: Sequence[str]) -> Any:
        try:
            return parse(texts[0])
        except ValueError:
            raise ValueError(f"must be {expected}") from None

    return ValueType(parsed, schema)


def _several(parse: Callable[[str], Any], expected: str, items: Mapping[str, Any]) -> ValueType:
    def parsed(texts: Sequence[str]) -> frozenset[Any]:
        values = texts[0].split(",")
        if len(values) > MAX_VALUES:
            raise ValueError(f"must have at most {MAX_VALUES} values")
        try:
            return frozenset(map(parse, values))
        except ValueError:
            raise ValueError(f"must be one or more of {expected}, separated by commas") from None

    return ValueType(parsed, {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_VALUES})


def _parse_exit_code(text: str) -> int:
    if not _EXIT_CODE.fullmatch(text) or int(text) > MAX_EXIT_CODE:
        raise ValueError(text)
    return int(text)


def _parse_name(text: str) -> str:
    if not is_name(text):
        raise ValueError(text)
    return text


def _parse_seconds(text: str) -> float:
    if not _SECONDS.fullmatch(text) or not isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _parse_labels(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if len(texts) > MAX_LABELS:
        raise ValueError(f"may be given at most {MAX_LABELS} times, since no job has more labels")
    found: set[tuple[str, str]] = set()
    for text in texts:
        key, colon, value = text.partition(":")
        if not colon or not is_name(key) or len(value) > MAX_LABEL_LENGTH or "\0" in value:
            limit = f"at most {MAX_LABEL_LENGTH} characters, and no NUL"
            rule = f"where the key matches {NAME_PATTERN} and the value has {limit}"
            raise ValueError(f"must be key:value, {rule}")
        found.add((key, value))
    return tuple(sorted(found))


_TEXT: Final = _single(lambda text: text or None, "text", {"type": "string"})
_STATES: Final = _several(State, ", ".join(State), {"type": "string", "enum": [*State]})
_ENDINGS: Final = _several(Ending, ", ".join(Ending), {"type": "string", "enum": [*Ending]})
_EXIT_CODES: Final = _several(
    _parse_exit_code,
    f"the numbers from 0 to {MAX_EXIT_CODE}",
    {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_EXIT_CODE},
)
_NAME: Final = {"type": "string", "pattern": f"^{NAME_PATTERN}$", "maxLength": MAX_NAME_LENGTH}
_NAMES: Final = _several(_parse_name, "the queues' names", _NAME)
_JOB_NAMES: Final = _several(_parse_name, "the jobs' names", _NAME)
_HOST_NAMES: Final = _several(_parse_name, "the hosts' names", _NAME)
_LABELS: Final = ValueType(
    _parse_labels,
    {
        "type": "array",
        "items": {
            "type": "string",
            "pattern": f"^{NAME_PATTERN}:",
            "maxLength": MAX_NAME_LENGTH + 1 + MAX_LABEL_LENGTH,
        },
        "minItems": 1,
        "maxItems": MAX_LABELS,
    },
    repeatable=True,
)
_TIME: Final = _single(
    parse_rfc3339,
    "an RFC 3339 time with its offset, such as 2026-11-24T15:31:42Z (write + as %2B)",
    {
        "type": "string",
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,12})?([Zz]|[+-]\d\d:\d\d)$",
        "maxLength": 38,
    },
)
_DURATION: Final = _single(
    _parse_seconds, "a number of seconds, 0 or more, such as 0.25", {"type": "number", "minimum": 0}
)


# Declarations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filters:
    """Selects the jobs that match every filter given; None matches any job. A new filter is a new field here."""

    text: Annotated[
        str | None,
        FilterInfo(
            "q", _TEXT, "command", Comparison.CONTAINS, "A part of the command or the name, in any case.", "привет"
        ),
    ] = None
    names: Annotated[
        frozenset[str] | None,
        FilterInfo("name", _JOB_NAMES, "name", Comparison.IN, "With any of these names.", ["nightly-backup"]),
    ] = None
    states: Annotated[
        frozenset[State] | None,
        FilterInfo("state", _STATES, "state", Comparison.IN, "In any of these states.", ["queued", "running"]),
    ] = None
    endings: Annotated[
        frozenset[Ending] | None,
        FilterInfo("ending", _ENDINGS, "ending", Comparison.IN, "With any of these endings.", ["exited"]),
    ] = None
    exit_codes: Annotated[
        frozenset[int] | None,
        FilterInfo("exit_code", _EXIT_CODES, "exit_code", Comparison.IN, "With any of these exit codes.", [1, 2]),
    ] = None
    queues: Annotated[
        frozenset[str] | None,
        FilterInfo("queue", _NAMES, "queue", Comparison.IN, "In any of these queues.", ["default"]),
    ] = None
    hosts: Annotated[
        frozenset[str] | None,
        FilterInfo(
            "host", _HOST_NAMES, "host", Comparison.IN, "That any of these hosts runs, or has run last.", ["build-1"]
        ),
    ] = None
    labels: Annotated[
        tuple[tuple[str, str], ...],
        FilterInfo("label", _LABELS, "labels", Comparison.HAS_LABELS, _HAS_LABEL, ["team:ops"]),
    ] = ()
    created_from: Annotated[
        Millis | None,
        FilterInfo("created_after", _TIME, "created", Comparison.AT_LEAST, "Accepted then or later.", _INSTANT),
    ] = None
    created_until: Annotated[
        Millis | None,
        FilterInfo("created_before", _TIME, "created", Comparison.BELOW, "Accepted earlier.", _INSTANT),
    ] = None
    completed_from: Annotated[
        Millis | None,
        FilterInfo("completed_after", _TIME, "completed", Comparison.AT_LEAST, "Ended then or later.", _INSTANT),
    ] = None
    completed_until: Annotated[
        Millis | None,
        FilterInfo("completed_before", _TIME, "completed", Comparison.BELOW, "Ended earlier.", _INSTANT),
    ] = None
    min_duration: Annotated[
        float | None,
        FilterInfo(
            "min_duration", _DURATION, "duration", Comparison.AT_LEAST, "Ran for at least this many seconds.", 0.5
        ),
    ] = None
    max_duration: Annotated[
        float | None,
        FilterInfo(
            "max_duration", _DURATION, "duration", Comparison.AT_MOST, "Ran for at most this many seconds.", 60
        ),
    ] = None
    with_result: bool = False  # done, and the result is not deleted; no parameter: it is what /api/results lists


# By field.
FILTERS: Final[Mapping[str, FilterInfo]] = MappingProxyType(
    {
        name: hint.__metadata__[0]
        for name, hint in get_type_hints(Filters, include_extras=True).items()
        if get_origin(hint) is Annotated
    }
)
