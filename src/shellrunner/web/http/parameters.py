"""What a query may say, read strictly: numbers, a yes or no, words, times, and several of these with commas.

Used by the resources; names are checked by the gate. Must not know what a parameter is for.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Final, TypeVar

from aiohttp import web

from shellrunner.clock import Millis, parse_rfc3339
from shellrunner.errors import BadParameter

T = TypeVar("T")

SEVERAL: Final = 256  # values of one parameter
LABELS: Final = 32
_LABEL: Final = 255  # characters of a label's value
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,12})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FLAGS: Final = {"": True, "true": True, "1": True, "false": False, "0": False}


def number(request: web.Request, name: str, *, least: int, most: int) -> int | None:
    """A whole number, or None if it is not given."""
    text = request.query.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise BadParameter(name, f"{name} must be a whole number from {least} to {most}")
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    """A yes or no; the bare name is a yes."""
    text = request.query.get(name, "false")
    if text not in _FLAGS:
        raise BadParameter(name, f"{name} must be true or false")
    return _FLAGS[text]


def choice(request: web.Request, name: str, words: Sequence[str]) -> str | None:
    """One of these words, or None if it is not given."""
    text = request.query.get(name)
    if text is not None and text not in words:
        raise BadParameter(name, f"{name} must be one of {', '.join(words)}")
    return text


def several(request: web.Request, name: str, read: Callable[[str], T], kind: str) -> frozenset[T] | None:
    """Some values with commas, each as `read` has it (ValueError: it is none); None if it is not given."""
    text = request.query.get(name)
    if text is None:
        return None
    words = text.split(",")
    if len(words) > SEVERAL:
        raise BadParameter(name, f"{name} must have at most {SEVERAL} values")
    try:
        return frozenset(map(read, words))
    except ValueError:
        raise BadParameter(name, f"{name} must be some of {kind}, with commas") from None


def exit_code(text: str) -> int:
    """A number that a command can exit with."""
    if not _NUMBER.fullmatch(text) or int(text) > 255:
        raise ValueError(text)
    return int(text)


def name(text: str) -> str:
    """A name as queues and labels have one."""
    if not _NAME.fullmatch(text):
        raise ValueError(text)
    return text


def labels(request: web.Request, parameter: str) -> tuple[tuple[str, str], ...]:
    """Labels as key:value, each once, however often the parameter came."""
    found: dict[tuple[str, str], None] = {}
    for text in request.query.getall(parameter, ()):
        key, colon, value = text.partition(":")
        if not colon or not _NAME.fullmatch(key) or len(value) > _LABEL:
            raise BadParameter(
                parameter,
                f"{parameter} must be key:value, the key as {_NAME.pattern}, the value at most {_LABEL} characters",
            )
        found[key, value] = None
    if len(found) > LABELS:
        raise BadParameter(parameter, f"{parameter} may come {LABELS} times: no job has more")
    return tuple(sorted(found))


def instant(request: web.Request, name: str) -> Millis | None:
    """Return the time; a fraction of a millisecond is rounded up, so that the bound stays on its side."""
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except ValueError:
        example = "2026-11-24T15:31:42Z (write + as %2B)"
        raise BadParameter(name, f"{name} must be an RFC 3339 time with its zone, such as {example}") from None


def seconds(request: web.Request, name: str) -> float | None:
    """A duration."""
    text = request.query.get(name)
    if text is None:
        return None
    if not _SECONDS.fullmatch(text) or not isfinite(float(text)):
        raise BadParameter(name, f"{name} must be seconds as a number from 0 on, like 0.25")
    return float(text)
