"""Settings in environment variables: `SHELLRUNNER_SECTION__KEY`, or `SHELLRUNNER_SECTION` with a whole table as JSON.

Names are in any case; lists, tables and null are JSON, everything else is text. Must not know what the settings mean.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from shellrunner import ascii_text

PREFIX: Final = "SHELLRUNNER_"
DELIMITER: Final = "__"

Table = dict[str, Any]


def read(settings: type[BaseModel]) -> Table:
    """Return the tables that the environment has of these settings. What cannot be parsed is left to validation."""
    tables: Table = {}
    # A table as a whole comes first, so that its keys' own variables override it.
    for section, key, text in sorted(_variables(settings), key=lambda variable: variable[1] is not None):
        annotation = settings.model_fields[section].annotation
        if key is None:
            tables[section] = _parse(annotation, text)
        elif isinstance(table := tables.setdefault(section, {}), dict):
            table[key] = _parse(_annotation_of(annotation, key), text)
    return tables


def merge(*sources: Mapping[str, Any]) -> Table:
    """Return the tables of all sources; a later source overrides the keys of those before."""
    merged: Table = {}
    for source in sources:
        for section, table in source.items():
            earlier = merged.get(section, {})
            # What is no table, in any source, is left to validation.
            merged[section] = _override(earlier, table) if isinstance(earlier, Mapping) else earlier
    return merged


def _override(earlier: Any, later: Any) -> Any:
    if not (isinstance(earlier, Mapping) and isinstance(later, Mapping)):
        return later
    return {**earlier, **{key: _override(earlier.get(key), value) for key, value in later.items()}}


def _variables(settings: type[BaseModel]) -> list[tuple[str, str | None, str]]:
    """Return section, key (None: the whole section) and text of each variable that names a section."""
    found = []
    for variable, text in os.environ.items():
        name = ascii_text.upper(variable)
        section, delimiter, key = ascii_text.lower(name.removeprefix(PREFIX)).partition(DELIMITER)
        if name.startswith(PREFIX) and section in settings.model_fields:
            found.append((section, key if delimiter else None, text))
    return found


def _annotation_of(table: Any, key: str) -> Any:
    """Return the type of a key of a table, which is a model or a dict; None if it is unknown."""
    if get_origin(table) is dict:
        return get_args(table)[1]
    field = table.model_fields.get(key)
    return None if field is None else field.annotation


def _parse(annotation: Any, text: str) -> Any:
    if _is_structured(annotation):
        try:
            return json.loads(text)
        except ValueError:
            return text
    try:  # validation is strict: it takes no text for a number
        return text if annotation is None else TypeAdapter[Any](annotation).validate_python(text)
    except ValidationError:
        return None if text == "null" else text


def _is_structured(annotation: Any) -> bool:
    """Return whether it is a list, a table, or a union with one."""
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type) and issubclass(kind, (list, tuple, dict, BaseModel)):
        return True
    return any(map(_is_structured, get_args(annotation)))
