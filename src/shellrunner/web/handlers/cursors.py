"""Cursors: the position at which the next page of a list begins, as an opaque string.

A cursor is bound to its filters and sort order. One that a client sends is validated like any other input.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import fields
from hashlib import blake2b
from math import isfinite
from typing import Any, Final

from shellrunner.errors import BadCursor
from shellrunner.model import Ending
from shellrunner.model.names import is_name
from shellrunner.store import Filters, Position, Sort
from shellrunner.store.pagination import MAX_ID, SortKey, Value

_MAX_LENGTH: Final = 1_000  # characters; every cursor that a list returns is shorter
_ENDINGS: Final = frozenset(ending.value for ending in Ending)


def encode(filters: Filters, sort: Sort, position: Position) -> str:
    """Return the cursor of a position in the list with these filters and this sort order."""
    content = json.dumps([_digest(filters, sort), *position], separators=(",", ":"))
    return urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


def decode(text: str, filters: Filters, sort: Sort) -> Position:
    """Return the position of a cursor.

    Raises:
        BadCursor: `encode` never returned it for these filters and this sort order.
    """
    try:
        _, *values = json.loads(urlsafe_b64decode(f"{text}===")) if len(text) <= _MAX_LENGTH else [None]
    except (ValueError, TypeError, RecursionError):  # not base64, JSON or a list
        values = []
    *keys, job_id = values or [None]
    valid = _is_id(job_id) and len(keys) == len(sort)
    valid = valid and all(_is_value(order.key, value) for order, value in zip(sort, keys, strict=True))
    # It must be exactly what `encode` returns: the decoder of base64 skips characters that do not belong to it.
    if not valid or text != encode(filters, sort, tuple(values)):
        raise BadCursor("cursor", "the cursor is not from this list with these filters and this sort")
    return tuple(values)


def _digest(filters: Filters, sort: Sort) -> str:
    values = {field.name: _serializable(getattr(filters, field.name)) for field in fields(filters)}
    return blake2b(json.dumps([values, sort]).encode(), digest_size=9).hexdigest()


def _serializable(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_ID


def _is_value(key: SortKey, value: Value) -> bool:
    if value is None:
        return True
    match key:
        case SortKey.QUEUE | SortKey.NAME:
            return isinstance(value, str) and is_name(value)
        case SortKey.ENDING:
            return isinstance(value, str) and value in _ENDINGS
        case SortKey.DURATION:
            return type(value) is float and isfinite(value)
        case _:
            return type(value) is int and abs(value) <= MAX_ID
