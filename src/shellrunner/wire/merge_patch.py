"""Specifications that are made from an earlier one by a merge patch (RFC 7396): of the same job, or of a new one.

Pure functions. Must not know HTTP, or whether the job has started.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from shellrunner.errors import MAX_ERRORS, InvalidJob
from shellrunner.model import JobPatch, JobSpec
from shellrunner.wire import parse
from shellrunner.wire.json_codec import json_pointer

# They say when the earlier job might start, which says nothing of a new one.
_NOT_REPEATED: Final = ("after", "held", "start_at")
_NOT_KEPT: Final = "its value is not kept: give it again, or null to leave it out"
_NOT_KNOWN: Final = "an earlier version, which accepted the job, did not record whether it had any: give it, or null"


def merge(target: Any, patch: Any) -> Any:
    """Return `target` with the patch applied (RFC 7396, section 2); neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def patched(spec: JobSpec, patch: Any) -> JobSpec:
    """Return the specification of a job that is changed before it starts.

    Raises:
        InvalidJob: the patch is no object, has a key that cannot be changed, or makes no valid job.
    """
    _check_keys(patch, JobPatch.model_fields)
    return parse.job_spec(merge(_document(spec), patch))


def repeated(spec: JobSpec, patch: Any, *, is_input_known: bool = True) -> JobSpec:
    """Return the specification of a new job that is as an earlier one, but for the patch.

    Values that are not kept (of variables, and text for standard input) must be given again, or left out by null. So
    must text that the earlier job may have had: unless `is_input_known`, its specification does not say.

    Raises:
        InvalidJob: the patch is no object, makes no valid job, or lacks such values.
    """
    _check_keys(patch, JobSpec.model_fields)
    base = {key: value for key, value in _document(spec).items() if key not in _NOT_REPEATED}
    for key, other in (("command", "argv"), ("argv", "command")):
        if patch.get(key) is not None and patch.get(other) is None:
            base.pop(other, None)
    new = parse.job_spec(merge(base, patch))
    if missing := _missing(spec, patch, is_input_known=is_input_known):
        raise InvalidJob([{"pointer": pointer, "detail": detail} for pointer, detail in missing[:MAX_ERRORS]])
    return new


def _document(spec: JobSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_defaults=True, exclude_unset=True)


def _check_keys(patch: Any, allowed: Iterable[str]) -> None:
    if not isinstance(patch, dict):
        raise InvalidJob([{"pointer": "#", "detail": "must be an object"}])
    errors = [
        {
            "pointer": json_pointer(key),
            "detail": "cannot be changed" if key in JobSpec.model_fields else "is not a known key",
        }
        for key in patch
        if key not in allowed
    ]
    if errors:
        raise InvalidJob(errors[:MAX_ERRORS])


def _missing(spec: JobSpec, patch: Mapping[str, Any], *, is_input_known: bool) -> list[tuple[str, str]]:
    """Return a pointer to each value that the patch must give or remove, and does not; and why it must."""
    env = patch.get("env", {})
    names = [] if env is None else [name for name in spec.env if name not in env]
    missing = [(json_pointer("env", name), _NOT_KEPT) for name in names]
    if "stdin" in patch:
        return missing
    if spec.has_text():
        missing.append(("#/stdin", _NOT_KEPT))
    elif spec.stdin is None and not is_input_known:
        missing.append(("#/stdin", _NOT_KNOWN))
    return missing
