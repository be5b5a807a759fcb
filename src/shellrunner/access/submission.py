"""What an identity may submit: the rules for its commands and the configuration's limits, in the order of the checks.

Used by the web side for every job, alone or in a batch, before it is accepted. Must not know HTTP.
"""

from collections.abc import Collection, Iterable

from shellrunner.access import Identity, command_rules, job_policy
from shellrunner.config import Settings
from shellrunner.errors import CommandNotAllowed, CommandsNotAllowed, InvalidJob, InvalidJobs
from shellrunner.model import JobSpec


def admit(identity: Identity, spec: JobSpec, settings: Settings, queues: Collection[str]) -> JobSpec:
    """Return the job as it is accepted from this identity: with the profile that is imposed on it.

    `queues`: those that there are.

    Raises:
        CommandNotAllowed, InsufficientScope: the identity may not submit it.
        InvalidJob: the configuration does not allow it.
    """
    command_rules.check_submission(identity, spec)  # first: what is valid is not for everybody
    job_policy.check(spec, settings, queues)
    spec = job_policy.confine(identity, spec, settings)
    command_rules.check_command(identity, spec)  # again, with its queue's profile
    return spec


def admit_all(
    identity: Identity, specs: Iterable[JobSpec | InvalidJob], settings: Settings, queues: Collection[str]
) -> list[JobSpec]:
    """Return the jobs of a batch as they are accepted, if all are. Some may be known to be invalid already.

    Raises:
        CommandsNotAllowed, InsufficientScope: the identity may not submit some of them, whatever the others are.
        InvalidJobs: some are not valid, or the configuration does not allow them.
    """
    admitted: list[JobSpec] = []
    invalid: dict[int, InvalidJob] = {}
    forbidden: dict[int, CommandNotAllowed] = {}
    for index, spec in enumerate(specs):
        if isinstance(spec, InvalidJob):
            invalid[index] = spec
            continue
        try:
            admitted.append(admit(identity, spec, settings, queues))
        except InvalidJob as error:
            invalid[index] = error
        except CommandNotAllowed as error:
            forbidden[index] = error
    if forbidden:
        raise CommandsNotAllowed(forbidden)
    if invalid:
        raise InvalidJobs(invalid)
    return admitted
