"""Error messages of settings: the file and line, variable or option; the key; the reason.

Used by `config.load`. Must not know what the settings mean.
"""

import codecs
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from shellrunner import ascii_text
from shellrunner.config.environment import DELIMITER, PREFIX
from shellrunner.errors import ConfigError

_Key = tuple[int | str, ...]
_Fields = Mapping[str, FieldInfo]

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class ConfigSources(NamedTuple):
    """The values of each source, highest precedence first: command line, environment, file."""

    overrides: Mapping[str, Any]
    environment: Mapping[str, Any]
    path: Path | None
    text: str


def read(path: Path) -> str:
    """Return the file's text, without the byte order mark that some editors put first.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_UTF16):
            raise ConfigError(f"{path}: is UTF-16: save it as UTF-8")
        text = content.decode("utf-8-sig")
        tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        reason, _, where = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", where, re.ASCII)
        line = int(found[1]) if found else text.count("\n") + 1  # otherwise tomllib reports "at end of document"
        raise ConfigError(f"{path}, line {line}: not TOML: {reason}") from None
    except (ValueError, RecursionError):  # raised by tomllib as they are; a reload must survive them
        raise ConfigError(f"{path}: has a number with thousands of digits, or thousands of nested lists") from None
    return text


def find_unknown_variables(settings: type[BaseModel]) -> Iterator[str]:
    """Find environment variables that look like settings but name no known section; yield an error for each.

    Only variables of known sections are read, so these would be ignored silently.
    """
    for variable in os.environ:
        name = ascii_text.upper(variable)
        section, delimiter, _ = ascii_text.lower(name.removeprefix(PREFIX)).partition(DELIMITER)
        ours = name.startswith(PREFIX) and delimiter
        if ours and section not in settings.model_fields:
            yield f"environment variable {variable}: {section}: {_unknown_key(section, settings.model_fields)}"


def format_problem(problem: ErrorDetails, sources: ConfigSources, settings: type[BaseModel]) -> str:
    """Format a validation error, without the value: it may be a secret in the wrong place."""
    return format_error(problem["loc"], sources, _reason(problem, settings))


def format_error(key: _Key, sources: ConfigSources, reason: str) -> str:
    """Format an error as `location: key: reason`."""
    name = ".".join(str(step) for step in key if step != "[key]")
    return f"{_location(key, sources)}: {name}: {reason}"


def _location(key: _Key, sources: ConfigSources) -> str:
    """Return where the effective value comes from: the first source that has the key."""
    if _overrides(sources.overrides, key):
        return f"--{key[1]}".replace("_", "-")
    if _overrides(sources.environment, key):
        return f"environment variable {_variable(key)}"
    if _matching_steps(tomllib.loads(sources.text), key) >= min(len(key), 2):
        return f"{sources.path}, line {_line(sources.text, key)}"
    return "default"


def _overrides(values: Mapping[str, Any], key: _Key) -> bool:
    """Return whether the source overrides this key; if it is a section as a whole, by something that is no table."""
    if len(key) == 1:
        return key[0] in values and not isinstance(values[str(key[0])], Mapping)
    return _matching_steps(values, key) >= 2


def _matching_steps(values: Any, key: _Key) -> int:
    """Return how many steps of the key exist in these nested tables and lists."""
    for depth, step in enumerate(key):
        try:
            values = values[step]
        except (LookupError, TypeError):  # absent, or not a container
            return depth
    return len(key)


def _variable(key: _Key) -> str:
    names = (PREFIX + DELIMITER.join(map(str, key[:steps])) for steps in (2, 1))
    given = {ascii_text.upper(variable): variable for variable in os.environ}
    return next(given[name] for name in map(ascii_text.upper, names) if name in given)


def _line(text: str, key: _Key) -> int:
    """Return the line on which the key's value begins.

    tomllib reports no positions. So longer and longer beginnings of the text are parsed: the value begins on the line
    after the longest complete document that lacks it.
    """
    depth = _matching_steps(tomllib.loads(text), key)
    lines = text.split("\n")
    begin = 1
    for end in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("\n".join(lines[:end]) + "\n")
        except tomllib.TOMLDecodeError:
            continue
        if _matching_steps(document, key) == depth:
            return begin
        begin = end + 1
    return begin


_REASONS: Final = {
    "missing": "is missing",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    # Only names, of queues, tokens and nodes, have a pattern.
    "string_pattern_mismatch": "must be 1 to 63 letters, digits, dots, dashes or underscores",
}
_REPLACEMENTS: Final = (
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
                if table is not None and step in table.model_fields:  # otherwise an index of a list, or a name
                    table = _table(table.model_fields[str(step)].annotation)
            return _unknown_key(str(key), {} if table is None else table.model_fields)
        case "value_error":
            return str(problem["ctx"]["error"])
        case kind if kind in _REASONS:
            return _REASONS[kind]
    reason = problem["msg"]
    for pattern, replacement in _REPLACEMENTS:
        reason = re.sub(pattern, replacement, reason)
    return reason


def _table(annotation: Any) -> type[BaseModel] | None:
    """Return the settings table that the annotation is or contains."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for inner in get_args(annotation) if (table := _table(inner))), None)


def _unknown_key(key: str, known: _Fields) -> str:
    import difflib  # noqa: PLC0415  only to report an error

    near = difflib.get_close_matches(key, known, 1)
    return "unknown key" + (f", did you mean {near[0]}?" if near else "")
