"""What a client sends, as the model: every fault named in plain words, with a pointer to it.

Pure functions. Must not know HTTP, or what the configuration allows.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from pydantic import ValidationError

from shellrunner.errors import InvalidJob, InvalidSignal
from shellrunner.model import JobSpec, SignalRequest
from shellrunner.model.names import NAME_RULE
from shellrunner.wire import json_codec

_MOST_ERRORS = 100  # enough to mend a request by; a million unknown keys must not make a giant answer

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
    "literal_error": "must be {expected}",
    "missing": "is required",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_pattern_mismatch": f"must be {NAME_RULE}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "too_long": "must have at most {max_length} items",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
    "value_error": "{error}",
}


def job_spec(content: bytes) -> JobSpec:
    """Parse the body of a new job. What the configuration allows is checked by `access.job_policy`.

    Raises:
        MalformedJson: the body is not JSON.
        InvalidJob: the body is JSON, but not a job.
    """
    document = json_codec.loads(content)
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        raise InvalidJob(_faults(error)) from None


def signal_number(content: bytes, signals: Mapping[str, int]) -> int:
    """Read the body that asks for a signal; `signals` are those that there are.

    Raises:
        MalformedJson: it is no JSON.
        InvalidSignal: it is JSON, but names none of them.
    """
    document = json_codec.loads(content)
    try:
        asked = SignalRequest.model_validate(document).signal
    except ValidationError as error:
        raise InvalidSignal(_faults(error)) from None
    if asked not in signals:
        raise InvalidSignal([{"pointer": "#/signal", "detail": f"must be one of {', '.join(signals)}"}])
    return signals[asked]


def digest(content: bytes) -> bytes:
    """The same for bodies that are equal as JSON, however they are written.

    Raises:
        MalformedJson: it is no JSON.
    """
    return blake2b(json.dumps(json_codec.loads(content), sort_keys=True).encode(), digest_size=32).digest()


def _faults(error: ValidationError) -> list[dict[str, str]]:
    faults = error.errors(include_url=False, include_input=False)
    # A list whose items are all wrong is called empty by pydantic, which is no fault of its own.
    around = {fault["loc"][:-1] for fault in faults}
    told = [fault for fault in faults if fault["type"] != "too_short" or fault["loc"] not in around]
    return [_explain(fault) for fault in told[:_MOST_ERRORS]]


def _explain(fault: Mapping[str, Any]) -> dict[str, str]:
    words = _WORDS.get(fault["type"])
    told = fault["msg"] if words is None else words.format_map(fault.get("ctx", {}))
    location = [key for key in fault["loc"] if key != "[key]"]  # pydantic marks a wrong key of a mapping with it
    return {"pointer": json_codec.json_pointer(*location), "detail": told}
