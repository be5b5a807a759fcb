"""What is wrong with a configuration, in words: the file and line or the variable, the key, the reason.

Owned by `config.load`. Must not know what the settings mean.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from shellrunner.errors import ConfigError

PREFIX: Final = "SHELLRUNNER_"
DELIMITER: Final = "__"

_Key = tuple[int | str, ...]
_Fields = Mapping[str, FieldInfo]


class ConfigSources(NamedTuple):
    """What was given where: first the command line's, then the environment's, then the file's."""

    overrides: Mapping[str, Any]
    environment: Mapping[str, Any]
    path: Path | None
    text: str


def read(path: Path) -> str:
    """Return the file's text, which is TOML.

    Raises:
        ConfigError: it cannot be read, or is not.
    """
    try:
        text = path.read_bytes().decode()
        tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        reason, _, where = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", where)
        line = int(found[1]) if found else text.count("\n") + 1  # else it says "at end of document"
        raise ConfigError(f"{path}, line {line}: is not TOML: {reason}") from None
    except (ValueError, RecursionError):  # tomllib lets these pass, and they would end a service that only reloads
        raise ConfigError(f"{path}: has a number of thousands of digits, or lists nested as deep") from None
    return text


def unknown_variables(settings: type[BaseModel]) -> Iterator[str]:
    """Complain of the variables in the environment that look like a setting of no known section.

    pydantic-settings looks only for the variables it knows, so these would go unnoticed.
    """
    for variable in os.environ:
        section, delimiter, _ = variable.lower().removeprefix(PREFIX.lower()).partition(DELIMITER)
        ours = variable.upper().startswith(PREFIX) and delimiter
        if ours and section not in settings.model_fields:
            yield f"environment variable {variable}: {section}: {_no_such(section, settings.model_fields)}"


def complaint(problem: ErrorDetails, sources: ConfigSources, settings: type[BaseModel]) -> str:
    """Say what is wrong with one value, without the value: it may be a secret in the wrong place."""
    return words(problem["loc"], sources, _reason(problem, settings))


def words(key: _Key, sources: ConfigSources, reason: str) -> str:
    """Say where the value was given, which it is, and what is wrong with it."""
    name = ".".join(str(step) for step in key if step != "[key]")
    return f"{_place(key, sources)}: {name}: {reason}"


def is_given(values: Mapping[str, Any], key: _Key) -> bool:
    """Whether the key is there, whatever its value."""
    return _depth(values, key) == len(key)


def _place(key: _Key, sources: ConfigSources) -> str:
    """Where the value that counts was given: the first of the sources that has it."""
    enough = min(len(key), 2)
    if _depth(sources.overrides, key) >= enough:
        return f"--{key[enough - 1]}".replace("_", "-")
    if _depth(sources.environment, key) >= enough:
        return f"environment variable {_variable(key)}"
    if _depth(tomllib.loads(sources.text), key) >= enough:
        return f"{sources.path}, line {_line(sources.text, key)}"
    return "default"


def _depth(values: Any, key: _Key) -> int:
    """How many steps of the key lead through these tables and lists."""
    for depth, step in enumerate(key):
        try:
            values = values[step]
        except (LookupError, TypeError):  # it is not there, or has nothing inside
            return depth
    return len(key)


def _variable(key: _Key) -> str:
    names = (PREFIX + DELIMITER.join(map(str, key[:steps])) for steps in (2, 1))
    given = {variable.upper(): variable for variable in os.environ}
    return next(given[name.upper()] for name in names if name.upper() in given)


def _line(text: str, key: _Key) -> int:
    """The line on which the key's value begins: after the last whole document that lacks it."""
    depth = _depth(tomllib.loads(text), key)
    lines = text.split("\n")
    begin = 1
    for end in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("\n".join(lines[:end]) + "\n")
        except tomllib.TOMLDecodeError:
            continue
        if _depth(document, key) == depth:
            return begin
        begin = end + 1
    return begin


_REASONS: Final = {
    "missing": "is missing",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    # A name, of a queue or a token, is all that has one.
    "string_pattern_mismatch": "must be 1 to 63 letters, digits, dots, dashes or underscores",
}
_WORDS: Final = (
    ("^Input should be|^Input is not", "must be"),
    ("a valid integer", "a whole number"),
    ("a valid boolean", "true or false"),
    ("a valid ", "a "),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
)


def _reason(problem: ErrorDetails, settings: type[BaseModel]) -> str:
    match problem["type"]:
        case "extra_forbidden":
            *section, key = problem["loc"]
            table: type[BaseModel] | None = settings
            for step in section:
                if table is not None and step in table.model_fields:  # else it is a place in a list, or a name
                    table = _table(table.model_fields[str(step)].annotation)
            return _no_such(str(key), {} if table is None else table.model_fields)
        case "value_error":
            return str(problem["ctx"]["error"])
        case kind if kind in _REASONS:
            return _REASONS[kind]
    reason = problem["msg"]
    for pattern, words in _WORDS:
        reason = re.sub(pattern, words, reason)
    return reason


def _table(annotation: Any) -> type[BaseModel] | None:
    """The table that such a value is, or that it has in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for inner in get_args(annotation) if (table := _table(inner))), None)


def _no_such(key: str, known: _Fields) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return "there is no such key" + (f", did you mean {near[0]}?" if near else "")
