"""The limits that hold for every job: the queues that there are, resource limits, hosts for callbacks, profiles.

Checked by the web side after a job was parsed and before it is accepted. Must not know HTTP, or which commands are
allowed (see `command_rules`).
"""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

from shellrunner.access import Identity
from shellrunner.config import Settings
from shellrunner.errors import InvalidJob
from shellrunner.model import JobSpec, Limits

_MAX_NAMED: Final = 20  # queues in one message
_NO_LIMITS = JobSpec(command="-").limits  # every spec without limits shares this very object


def check(spec: JobSpec, settings: Settings, queues: Collection[str]) -> None:
    """Reject a job that the configuration does not allow, or that is not for one of these queues.

    Raises:
        InvalidJob: names everything that is not allowed, each with a JSON pointer.
    """
    violations = [{"pointer": pointer, "detail": detail} for pointer, detail in _violations(spec, settings, queues)]
    if violations:
        raise InvalidJob(violations)


def confine(identity: Identity, spec: JobSpec, settings: Settings) -> JobSpec:
    """Return the job with the profile that its token or queue imposes, else with its own.

    There is one profile at most, because two cannot be compared: all that name one must name the same. The job keeps
    it, whatever the configuration says later.

    Raises:
        InvalidJob: there are two, or it asks that children outlive it, which no profile allows.
    """
    configured = settings.queues.get(spec.queue)  # a queue that was made at run time imposes none
    of_queue = None if configured is None else configured.profile
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


def _violations(spec: JobSpec, settings: Settings, queues: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield a JSON pointer and a detail for everything that is not allowed."""
    if spec.queue not in queues:
        more = ", …" if len(queues) > _MAX_NAMED else ""
        yield "#/queue", f"must be one of the queues: {', '.join(islice(queues, _MAX_NAMED))}{more}"
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
