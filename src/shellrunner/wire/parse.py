"""Request bodies as the model; every error is reported with a JSON pointer and a message for people.

Pure functions. Must not know HTTP, or what the configuration allows.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from pydantic import ValidationError

from shellrunner.errors import MAX_ERRORS, InvalidJob, InvalidQueue, InvalidSignal, InvalidSize
from shellrunner.model import JobBatch, JobSpec, QueueChange, ResizeRequest, SignalRequest, TerminalSize
from shellrunner.model.names import MAX_BODY_BYTES, NAME_RULE
from shellrunner.wire import json_codec

_MESSAGES = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "extra_forbidden": "is not a known key",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
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


def job_spec(document: Any) -> JobSpec:
    """Validate the body of a new job. What the configuration allows is checked by `access.job_policy`.

    Raises:
        InvalidJob: it is not a job.
    """
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        raise InvalidJob(_errors(error)) from None


def job_specs(document: Any, *, is_large: bool) -> list[JobSpec | InvalidJob]:
    """Validate the body of many new jobs: each as `job_spec` does, up to the last error that a response has room for.

    `is_large`: it was larger than the body of one job may be, so that any of them may be too.

    Raises:
        InvalidJob: it is not a list of jobs.
    """
    try:
        items = JobBatch.model_validate(document).jobs
    except ValidationError as error:
        raise InvalidJob(_errors(error)) from None
    specs: list[JobSpec | InvalidJob] = []
    invalid = 0
    for item in items:
        try:
            specs.append(_spec_of_batch(item, is_large=is_large))
        except InvalidJob as error:
            specs.append(error)
            invalid += 1
            if invalid == MAX_ERRORS:
                break
    return specs


def _spec_of_batch(item: Any, *, is_large: bool) -> JobSpec:
    if is_large and len(json_codec.dumps(item)) > MAX_BODY_BYTES:
        raise InvalidJob([{"pointer": "#", "detail": f"must have at most {MAX_BODY_BYTES} bytes as JSON"}])
    return job_spec(item)


class SignalOrder(NamedTuple):
    """A signal that is to be sent to the command's process group, or to every group of its tree."""

    name: str
    number: int
    to_tree: bool


def signal_order(content: bytes, signals: Mapping[str, int]) -> SignalOrder:
    """Parse the body of a request to send a signal; `signals` are the known ones by name.

    Raises:
        MalformedJson: the body is not JSON.
        InvalidSignal: the body is JSON, but does not name a known signal.
    """
    document = json_codec.loads(content)
    try:
        request = SignalRequest.model_validate(document)
    except ValidationError as error:
        raise InvalidSignal(_errors(error)) from None
    if request.signal not in signals:
        raise InvalidSignal([{"pointer": "#/signal", "detail": f"must be one of {', '.join(signals)}"}])
    return SignalOrder(request.signal, signals[request.signal], to_tree=request.to == "tree")


def terminal_size(content: bytes) -> TerminalSize:
    """Parse the body of a request to resize a terminal.

    Raises:
        MalformedJson: the body is not JSON.
        InvalidSize: the body is JSON, but not a size.
    """
    try:
        request = ResizeRequest.model_validate(json_codec.loads(content))
    except ValidationError as error:
        raise InvalidSize(_errors(error)) from None
    return TerminalSize(request.rows, request.columns)


def queue_change(content: bytes) -> QueueChange:
    """Parse the body of a request that sets the limits of a queue.

    Raises:
        MalformedJson: the body is not JSON.
        InvalidQueue: the body is JSON, but not such limits.
    """
    document = json_codec.loads(content)
    try:
        return QueueChange.model_validate(document)
    except ValidationError as error:
        raise InvalidQueue(_errors(error)) from None


def digest(document: Any) -> bytes:
    """Return a hash that is the same for bodies that are equal as JSON."""
    return blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=32).digest()


def _errors(error: ValidationError) -> list[dict[str, str]]:
    details = error.errors(include_url=False, include_input=False)
    # If all items of a list are wrong, pydantic reports in addition that it is too short.
    parents = {detail["loc"][:-1] for detail in details}
    own = [detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in parents]
    return [_explain(detail) for detail in own[:MAX_ERRORS]]


def _explain(detail: Mapping[str, Any]) -> dict[str, str]:
    template = _MESSAGES.get(detail["type"])
    message = detail["msg"] if template is None else template.format_map(detail.get("ctx", {}))
    location = [key for key in detail["loc"] if key != "[key]"]  # pydantic's mark of a wrong key in a mapping
    return {"pointer": json_codec.json_pointer(*location), "detail": message}
