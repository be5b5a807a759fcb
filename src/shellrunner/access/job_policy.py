"""The limits that the configuration sets for every job: queues, resource limits, hosts for callbacks, profiles.

Checked by the web side after a job was parsed and before it is accepted. Must not know HTTP, or which commands are
allowed (see `command_rules`).
"""

from collections.abc import Iterator

from shellrunner.access import Identity
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


def confine(identity: Identity, spec: JobSpec, settings: Settings) -> JobSpec:
    """Return the job with the profile that its token or queue imposes, else with its own.

    There is one profile at most, because two cannot be compared: all that name one must name the same. The job keeps
    it, whatever the configuration says later.

    Raises:
        InvalidJob: there are two, or it asks that children outlive it, which no profile allows.
    """
    of_queue = settings.queues[spec.queue].profile
    profile = identity.profile or of_queue or spec.profile
    if profile is None:
        return spec
    violations = []
    if spec.profile not in (None, profile):
        violations.append({"pointer": "#/profile", "detail": f"must be {profile}, which its token or queue imposes"})
    elif of_queue not in (None, profile):
        detail = f"its jobs have the profile {of_queue}, and those of {identity.name} have {profile}"
        violations.append({"pointer": "#/queue", "detail": detail})
    if spec.leave_children:
        violations.append({"pointer": "#/leave_children", "detail": "must be false: a profile ends all processes"})
    if violations:
        raise InvalidJob(violations)
    return spec if spec.profile else spec.model_copy(update={"profile": profile})


def _violations(spec: JobSpec, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield a JSON pointer and a detail for everything that is not allowed."""
    if spec.queue not in settings.queues:
        yield "#/queue", f"must be one of the configured queues: {', '.join(settings.queues)}"
    if spec.profile is not None and spec.profile not in settings.profiles:
        known = ", ".join(settings.profiles) or "there is none"
        yield "#/profile", f"must be one of the configured profiles: {known}"
    if spec.limits is not _NO_LIMITS:
        for name in Limits.model_fields:
            requested, maximum = getattr(spec.limits, name), getattr(settings.jobs, name)
            if requested is not None and maximum is not None and requested > maximum:
                yield f"#/limits/{name}", f"must be at most {maximum} (jobs.{name})"
    if spec.notify and spec.notify.host not in settings.callbacks.hosts:
        allowed = ", ".join(settings.callbacks.hosts) or "it is empty"
        yield "#/notify/url", f"the host must be listed in callbacks.hosts: {allowed}"
