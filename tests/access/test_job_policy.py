"""Which jobs the configuration allows to all submitters."""

from typing import Any

import pytest

from shellrunner.access import job_policy
from shellrunner.config import Settings
from shellrunner.errors import InvalidJob
from shellrunner.model import JobSpec

SETTINGS = Settings.model_validate(
    {
        "jobs": {"memory_bytes": 1000, "output_bytes": 500},
        "callbacks": {"hosts": ["example.org"], "secret": f"whsec_{'c2VjcmV0' * 4}"},
        "queues": {"default": {}, "backups": {}},
    }
)


def errors_of(**keys: Any) -> list[dict[str, str]]:
    """Return the errors with which a job of these keys is rejected; none if it is allowed."""
    try:
        job_policy.check(JobSpec.model_validate({"command": "true", **keys}), SETTINGS, SETTINGS.queues)
    except InvalidJob as error:
        errors: list[dict[str, str]] = error.members["errors"]
        return errors
    return []


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"queue": "backups"},
        {"limits": {"memory_bytes": 1000, "output_bytes": 500}},
        {"limits": {"open_files": 2**20}},
        {"notify": {"url": "https://example.org/hook"}},
    ],
)
def test_allowed(keys: dict[str, Any]) -> None:
    """A job within every limit is allowed, and a limit that the configuration does not set is no limit."""
    assert errors_of(**keys) == []


@pytest.mark.parametrize(
    ("keys", "pointer", "detail"),
    [
        ({"queue": "other"}, "#/queue", "must be one of the queues: default, backups"),
        ({"limits": {"memory_bytes": 1001}}, "#/limits/memory_bytes", "must be at most 1000 (jobs.memory_bytes)"),
        ({"limits": {"output_bytes": 501}}, "#/limits/output_bytes", "must be at most 500 (jobs.output_bytes)"),
        (
            {"notify": {"url": "https://example.com/"}},
            "#/notify/url",
            "the host must be listed in callbacks.hosts: example.org",
        ),
    ],
)
def test_rejected(keys: dict[str, Any], pointer: str, detail: str) -> None:
    """A job beyond a limit is rejected with a pointer to the key and the name of the setting."""
    assert errors_of(**keys) == [{"pointer": pointer, "detail": detail}]


def test_every_violation_is_reported_at_once() -> None:
    """A job that violates several limits is rejected with all of them."""
    errors = errors_of(queue="other", limits={"memory_bytes": 1001, "output_bytes": 501})
    assert [error["pointer"] for error in errors] == ["#/queue", "#/limits/memory_bytes", "#/limits/output_bytes"]
