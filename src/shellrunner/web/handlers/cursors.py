"""Cursors: the place where the next page of a list begins, as a text that nobody has to understand.

A cursor belongs to its filters and sort. What comes back is believed as little as anything else that a client says.
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

_LONGEST: Final = 1_000  # characters; any cursor of ours is shorter
_ENDINGS: Final = frozenset(ending.value for ending in Ending)


def write(filters: Filters, sort: Sort, place: Position) -> str:
    """The cursor of this place."""
    content = json.dumps([_digest(filters, sort), *place], separators=(",", ":"))
    return urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


def read(text: str, filters: Filters, sort: Sort) -> Position:
    """The place of a cursor.

    Raises:
        BadCursor: it is none of ours, or that of a list with other filters or in another order.
    """
    try:
        _, *values = json.loads(urlsafe_b64decode(f"{text}===")) if len(text) <= _LONGEST else [None]
    except (ValueError, TypeError, RecursionError):  # no base64, JSON or list
        values = []
    *keys, job_id = values or [None]
    fits = _is_id(job_id) and len(keys) == len(sort)
    fits = fits and all(_is_of(order.key, value) for order, value in zip(sort, keys, strict=True))
    # It must be what we would write, to the letter: base64 passes over what does not belong to it.
    if not fits or text != write(filters, sort, tuple(values)):
        raise BadCursor("cursor", "the cursor was not made by this list with these filters and this sort")
    return tuple(values)


def _digest(filters: Filters, sort: Sort) -> str:
    asked = {field.name: _plain(getattr(filters, field.name)) for field in fields(filters)}
    return blake2b(json.dumps([asked, sort]).encode(), digest_size=9).hexdigest()


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_ID


def _is_of(key: SortKey, value: Value) -> bool:
    if value is None:
        return True
    match key:
        case SortKey.QUEUE:
            return isinstance(value, str) and is_name(value)
        case SortKey.ENDING:
            return isinstance(value, str) and value in _ENDINGS
        case SortKey.DURATION:
            return type(value) is float and isfinite(value)
        case _:
            return type(value) is int and abs(value) <= MAX_ID
