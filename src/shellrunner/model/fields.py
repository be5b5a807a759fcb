"""Field types of requests: strings and numbers with the rules that they must keep.

Used by `spec` and by the configuration. Must not know which key has which type.
"""

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, StringConstraints

from shellrunner import ascii_text, charsets
from shellrunner.clock import format_rfc3339, parse_rfc3339
from shellrunner.model.endings import ENDINGS, Ending
from shellrunner.model.names import (
    MAX_ARGUMENT_BYTES,
    MAX_JOB_ID,
    MAX_LABEL_LENGTH,
    NAME_PATTERN,
    RESERVED_VARIABLES,
)

_MAX_URL_LENGTH: Final = 2048


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return text


def _argument(text: str) -> str:
    _without_nul(text)
    if len(text.encode()) > MAX_ARGUMENT_BYTES:
        raise ValueError(f"must be at most {MAX_ARGUMENT_BYTES} bytes of UTF-8")
    return text


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("must be the name of a variable: not empty, without '=' and NUL")
    if name in RESERVED_VARIABLES:
        raise ValueError("is set by the service")
    return name


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path")
    return path


def _instant(text: str) -> str:
    """Return the time in UTC with milliseconds, rounded up: nothing starts before it was asked to."""
    try:
        return format_rfc3339(parse_rfc3339(text))
    except ValueError:
        raise ValueError("must be an RFC 3339 time with its zone, such as 2026-11-24T15:31:42Z") from None


def _callback_url(url: str) -> str:
    if _URL.fullmatch(url) is None or len(url) > _MAX_URL_LENGTH:
        limit = f"of at most {_MAX_URL_LENGTH} characters"
        raise ValueError(f"must be an http or https URL {limit}, without user or fragment")
    return url


def _retryable(ending: str) -> str:
    if ending not in RETRYABLE:
        raise ValueError(f"must be one of {', '.join(RETRYABLE)}")
    return ending


def json_schema(**keywords: Any) -> Any:
    """Add what JSON Schema can express of a rule that a validator checks."""
    return Field(json_schema_extra=keywords)


def describe(text: str) -> Any:
    """Describe a key in the OpenAPI document."""
    return Field(description=text)


# ASCII throughout: with IGNORECASE alone, the Kelvin sign would match the k of a host that the configuration names.
_URL = re.compile(r"https?://(?P<host>(?:(?![/?#@\\])[!-~])+)(?:[/?][!-\"$-~]*)?", re.ASCII | re.IGNORECASE)
_VARIABLE = re.compile(r"[^=\0]+")
NO_NUL = r"^[^\u0000]*$"
ANCHORED_NAME = f"^{NAME_PATTERN}$"
RETRYABLE: Final = tuple(ending.value for ending in Ending if ENDINGS[ending].retryable)

Argument = Annotated[str, AfterValidator(_argument), json_schema(maxLength=MAX_ARGUMENT_BYTES, pattern=NO_NUL)]
LabelValue = Annotated[
    str,
    StringConstraints(max_length=MAX_LABEL_LENGTH),
    AfterValidator(_without_nul),  # which PostgreSQL's texts cannot have
    json_schema(pattern=NO_NUL),
]
Charset = Annotated[str, AfterValidator(charsets.canonical), json_schema(enum=sorted(charsets.CHARSETS))]
Instant = Annotated[
    str,
    AfterValidator(_instant),
    json_schema(format="date-time", pattern=r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"),
]
Name = Annotated[str, StringConstraints(pattern=ANCHORED_NAME)]
JobId = Annotated[int, Field(ge=1, le=MAX_JOB_ID)]
RetryableEnding = Annotated[str, AfterValidator(_retryable), json_schema(enum=[*RETRYABLE])]
WorkingDirectory = Annotated[Argument, AfterValidator(_absolute), json_schema(pattern=r"^/[^\u0000]*$")]
VariableName = Annotated[str, AfterValidator(_variable)]
CallbackUrl = Annotated[str, AfterValidator(_callback_url), json_schema(format="uri", maxLength=_MAX_URL_LENGTH)]


def url_host(url: str) -> str:
    """Return the host of a valid `CallbackUrl` in lower case, with the port if one is given."""
    match = _URL.fullmatch(url)
    assert match is not None  # noqa: S101  it was validated
    return ascii_text.lower(match["host"])
