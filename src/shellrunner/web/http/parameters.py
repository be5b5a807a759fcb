"""Strict parsers for query parameters: integers, flags, words, and filters as `model.filters` declares them.

Used by the handlers; unknown names are rejected by the security middleware before. Must not know what a parameter is
for. All of them raise `BadParameter`, which names the parameter and what it must be.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from shellrunner.errors import BadParameter
from shellrunner.model.filters import FilterInfo
from shellrunner.model.names import NAME_RULE, is_name

_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
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


def name(request: web.Request, parameter: str) -> str | None:
    """Return a name, or None if the parameter is absent."""
    text = request.query.get(parameter)
    if text is not None and not is_name(text):
        raise BadParameter(parameter, f"{parameter} must be {NAME_RULE}")
    return text


def filter_value(request: web.Request, info: FilterInfo) -> Any:
    """Return the value of a filter, or None if its parameter is absent."""
    texts = request.query.getall(info.parameter, ())
    try:
        return info.type.parse(texts) if texts else None
    except ValueError as error:
        raise BadParameter(info.parameter, f"{info.parameter} {error}") from None
