"""Whose job a request changes, where the client may change, or know of, only its own.

Used by the security middleware for every route that needs the scope `run`, and by the handlers of standard input and
signals.
"""

from aiohttp import web

from shellrunner.access import Identity, command_rules
from shellrunner.errors import NotYours
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.route import Access


async def check_owner(request: web.Request, identity: Identity, access: Access) -> None:
    """Reject the change of a job, or of many, that the identity may not change.

    Raises:
        NotYours: the job was submitted by another identity, or the request is for many jobs.
        NoSuchJob: there is no such job, as far as the identity may know.
    """
    if identity.sees_all and not identity.is_restricted:
        return
    if "id" in request.match_info:
        number = job_id(request)
        command_rules.check_ownership(identity, number, *await request.app[STORE].submitter(number))
    elif access is Access.RUN_MANY:
        raise NotYours("a token with run_as, commands or a profile may change only one job at a time")


async def check_stdin(request: web.Request, identity: Identity) -> None:
    """Reject input from a restricted identity for a command that it may not run any more.

    Raises:
        CommandNotAllowed, NoSuchJob.
    """
    if identity.is_restricted:
        command_rules.check_stdin(identity, (await request.app[STORE].job(job_id(request))).spec)


async def check_signal(request: web.Request, identity: Identity) -> None:
    """Reject a signal from a restricted identity that may not send any to this command.

    Raises:
        CommandNotAllowed, NoSuchJob.
    """
    if identity.is_restricted:
        command_rules.check_signal(identity, (await request.app[STORE].job(job_id(request))).spec)
