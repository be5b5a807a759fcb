"""Whose job a request changes, where the client may change only its own.

Used by the security middleware for every route that needs the scope `run`, and by the handler of standard input.
"""

from aiohttp import web

from shellrunner.access import Identity, command_rules
from shellrunner.errors import NotYours
from shellrunner.web.app_keys import STORE, job_id


async def check_owner(request: web.Request, identity: Identity) -> None:
    """Reject what a restricted identity may not change.

    Raises:
        NotYours: the job was submitted by another identity, or the request is for many jobs.
        NoSuchJob: there is no such job.
    """
    if "id" in request.match_info:
        command_rules.check_ownership(identity, await request.app[STORE].job(job_id(request)))
    elif request.method != "POST":
        raise NotYours("a token with run_as or commands may delete only one job at a time")


async def check_stdin(request: web.Request, identity: Identity) -> None:
    """Reject input from a restricted identity for a job that it may not submit any more.

    Raises:
        NotYours, CommandNotAllowed, NoSuchJob.
    """
    if identity.is_restricted:
        command_rules.check_stdin(identity, await request.app[STORE].job(job_id(request)))
