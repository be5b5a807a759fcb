"""JSON that a person has written: one object that says what the API would accept, or an error.

What Python's parser alone would let through is refused: keys that are there twice, NaN, and half of a surrogate pair.
Must not know which keys an object may have.
"""

import json
from typing import Any, NoReturn


def parse_object(text: str) -> dict[str, Any]:
    """Return the object.

    Raises:
        ValueError: the text is not JSON, not an object, or has what JSON in UTF-8 cannot have.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is not an object")  # noqa: TRY004  a person has written it
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair") from None
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return content


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
