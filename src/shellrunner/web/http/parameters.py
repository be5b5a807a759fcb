"""Strict parsers for query parameters: integers, flags, words, times, durations, labels, comma-separated values.

Used by the handlers; unknown names are rejected by the security middleware before. Must not know what a parameter is
for. All of them raise `BadParameter`, which names the parameter and what it must be.
"""

import re
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Final, TypeVar

from aiohttp import web

from shellrunner.clock import Millis, parse_rfc3339
from shellrunner.errors import BadParameter

T = TypeVar("T")

MAX_VALUES: Final = 256  # of one parameter
MAX_LABELS: Final = 32
_MAX_LABEL_VALUE: Final = 255  # characters
_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_DURATION = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_FLAGS: Final = {"": True, "true": True, "1": True, "false": False, "0": False}


def integer(request: web.Request, name: str, *, minimum: int, maximum: int) -> int | None:
    """Return a non-negative integer, or None if the parameter is absent."""
    text = request.query.get(name)
    if text is None:
        return None
    if not _INTEGER.fullmatch(text) or not minimum <= int(text) <= maximum:
        raise BadParameter(name, f"{name} must be a whole number from {minimum} to {maximum}")
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    """Return a boolean: false if the parameter is absent, true if it has no value (`?follow`)."""
    text = request.query.get(name, "false")
    if text not in _FLAGS:
        raise BadParameter(name, f"{name} must be true or false")
    return _FLAGS[text]


def choice(request: web.Request, name: str, words: Sequence[str]) -> str | None:
    """Return one of the given words, or None if the parameter is absent."""
    text = request.query.get(name)
    if text is not None and text not in words:
        raise BadParameter(name, f"{name} must be one of {', '.join(words)}")
    return text


def comma_separated(request: web.Request, name: str, parse: Callable[[str], T], expected: str) -> frozenset[T] | None:
    """Return comma-separated values, or None if the parameter is absent.

    `parse` converts one value and raises ValueError for an invalid one; `expected` describes them for the error.
    """
    text = request.query.get(name)
    if text is None:
        return None
    words = text.split(",")
    if len(words) > MAX_VALUES:
        raise BadParameter(name, f"{name} must have at most {MAX_VALUES} values")
    try:
        return frozenset(map(parse, words))
    except ValueError:
        raise BadParameter(name, f"{name} must be one or more of {expected}, separated by commas") from None


def parse_exit_code(text: str) -> int:
    """Parse an exit code, 0 to 255.

    Raises:
        ValueError: it is not one.
    """
    if not _INTEGER.fullmatch(text) or int(text) > 255:
        raise ValueError(text)
    return int(text)


def parse_name(text: str) -> str:
    """Return the text if it has the form of a queue's or label's name.

    Raises:
        ValueError: it has not.
    """
    if not _NAME.fullmatch(text):
        raise ValueError(text)
    return text


def labels(request: web.Request, name: str) -> tuple[tuple[str, str], ...]:
    """Return the labels of a repeatable `key:value` parameter, sorted and without duplicates."""
    found: set[tuple[str, str]] = set()
    for text in request.query.getall(name, ()):
        key, colon, value = text.partition(":")
        if not colon or not _NAME.fullmatch(key) or len(value) > _MAX_LABEL_VALUE:
            raise BadParameter(
                name,
                f"{name} must be key:value, where the key matches {_NAME.pattern} and the value has at most"
                f" {_MAX_LABEL_VALUE} characters",
            )
        found.add((key, value))
    if len(found) > MAX_LABELS:
        raise BadParameter(name, f"{name} may be given at most {MAX_LABELS} times, since no job has more labels")
    return tuple(sorted(found))


def timestamp(request: web.Request, name: str) -> Millis | None:
    """Return a time, or None if the parameter is absent; a fraction of a millisecond is rounded up."""
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except ValueError:
        example = "2026-11-24T15:31:42Z (write + as %2B)"
        raise BadParameter(name, f"{name} must be an RFC 3339 time with its offset, such as {example}") from None


def duration(request: web.Request, name: str) -> float | None:
    """Return a duration in seconds, or None if the parameter is absent."""
    text = request.query.get(name)
    if text is None:
        return None
    if not _DURATION.fullmatch(text) or not isfinite(float(text)):
        raise BadParameter(name, f"{name} must be a number of seconds, 0 or more, such as 0.25")
    return float(text)
