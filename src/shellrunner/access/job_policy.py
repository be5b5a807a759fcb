"""The limits that the configuration sets for every job: queues, resource limits, hosts for callbacks.

Checked by the web side after a job was parsed and before it is accepted. Must not know HTTP, or who submits the job
(see `command_rules`).
"""

from collections.abc import Iterator

from shellrunner.config import Settings
from shellrunner.errors import InvalidJob
from shellrunner.model import JobSpec, Limits

_NO_LIMITS = JobSpec(command="-").limits  # every spec without limits shares this very object


def check(spec: JobSpec, settings: Settings) -> None:
    """Reject a job that the configuration does not allow.

    Raises:
        InvalidJob: names everything that is not allowed, each with a JSON pointer.
    """
    violations = [{"pointer": pointer, "detail": detail} for pointer, detail in _violations(spec, settings)]
    if violations:
        raise InvalidJob(violations)


def _violations(spec: JobSpec, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield a JSON pointer and a detail for everything that is not allowed."""
    if spec.queue not in settings.queues:
        yield "#/queue", f"must be one of the configured queues: {', '.join(settings.queues)}"
    if spec.limits is not _NO_LIMITS:
        for name in Limits.model_fields:
            requested, maximum = getattr(spec.limits, name), getattr(settings.jobs, name)
            if requested is not None and maximum is not None and requested > maximum:
                yield f"#/limits/{name}", f"must be at most {maximum} (jobs.{name})"
    if spec.notify and spec.notify.host not in settings.callbacks.hosts:
        allowed = ", ".join(settings.callbacks.hosts) or "it is empty"
        yield "#/notify/url", f"the host must be listed in callbacks.hosts: {allowed}"
