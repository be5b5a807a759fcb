"""JSON of the API: strict when it reads, and every script written as itself.

Pure functions over bytes. Must not know what the documents mean.
"""

import codecs
import json
from typing import Any, NoReturn

from pydantic_core import PydanticSerializationError, to_json

from shellrunner.errors import MalformedJson

_MAX_DIGITS = 1_000  # of a whole number: int() takes time quadratic in them, and refuses more than 4300
_MAX_KEY_LENGTH = 100  # characters of a key that a pointer shows

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def dumps(document: Any) -> bytes:
    """Serialize a document as one line of UTF-8, with a newline at the end."""
    return encode(document) + b"\n"


def encode(document: Any) -> bytes:
    """Serialize a document as UTF-8 without any line end."""
    try:
        return to_json(document)
    except PydanticSerializationError:
        # A file name may contain a lone surrogate; it must not fail the whole response.
        return _encode(document).encode(errors="replace")


def loads(body: bytes) -> Any:
    """Parse a body as RFC 8259 defines JSON, without the extensions of Python's parser.

    A byte order mark before it is ignored, as section 8.1 allows.

    Raises:
        MalformedJson: wrong syntax or encoding, nested too deeply, a duplicate key, NaN or infinity, a lone
            surrogate, a number with too many digits.
    """
    try:
        document = _decoder.decode(body.removeprefix(codecs.BOM_UTF8).decode())
        if b"\\u" in body:  # only an escape can bring a lone surrogate into UTF-8
            _encode(document).encode()
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the body is not UTF-8: invalid byte at offset {error.start}") from None
    except UnicodeEncodeError:
        raise MalformedJson("the body contains a lone surrogate") from None
    except RecursionError:
        raise MalformedJson("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:
        raise MalformedJson(str(error)) from None
    return document


def json_pointer(*location: str | int) -> str:
    """Return a JSON pointer in a URI fragment (RFC 6901, section 6); long keys are shortened."""
    return "#" + "".join(f"/{_escape(str(key)[:_MAX_KEY_LENGTH])}" for key in location)


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return members


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _parse_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number has more than {_MAX_DIGITS} digits")
    return int(text)


def _parse_float(text: str) -> int | float:
    # JSON has one kind of number: 1.0 is 1.
    number = float(text)
    return int(number) if number.is_integer() else number


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_reject_constant, parse_float=_parse_float, parse_int=_parse_int
)
