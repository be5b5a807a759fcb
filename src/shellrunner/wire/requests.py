"""What a client sends, as the model: every fault named in plain words, with a pointer to it.

Pure functions. Must not know HTTP; the limits that config sets are passed in.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from shellrunner.errors import InvalidJob
from shellrunner.model import JobSpec
from shellrunner.wire import body

_MOST_ERRORS = 100  # enough to mend a request by; a million unknown keys must not make a giant answer
_LONGEST_KEY = 100  # characters of a key that are shown

_WORDS = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "extra_forbidden": "is not a known key",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "missing": "is required",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "too_short": "must not be empty",
    "tuple_type": "must be a list of strings",
    "value_error": "{error}",
}


def job_spec(content: bytes, *, output_bytes: int) -> JobSpec:
    """Read the body of a new job; `output_bytes` is the most it may ask for.

    Raises:
        MalformedJson: it is no JSON.
        InvalidJob: it is JSON, but no job.
    """
    document = body.load(content)
    try:
        spec = JobSpec.model_validate(document)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)[:_MOST_ERRORS]
        raise InvalidJob([_explain(fault) for fault in faults]) from None
    asked = spec.limits.output_bytes
    if asked is not None and asked > output_bytes:
        raise InvalidJob([{"pointer": "#/limits/output_bytes", "detail": f"must be at most {output_bytes}"}])
    return spec


def _explain(fault: Mapping[str, Any]) -> dict[str, str]:
    words = _WORDS.get(fault["type"], fault["msg"])
    return {"pointer": _pointer(fault["loc"]), "detail": words.format_map(fault.get("ctx", {}))}


def _pointer(location: tuple[str | int, ...]) -> str:
    """The place as a JSON pointer in a URI fragment (RFC 6901, section 6)."""
    return "#" + "".join(
        "/" + str(part)[:_LONGEST_KEY].replace("~", "~0").replace("/", "~1") for part in location if part != "[key]"
    )
