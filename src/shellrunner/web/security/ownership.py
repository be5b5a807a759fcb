"""Whose job a request touches, where that matters: to whom may run some commands only, or as some user only.

Used by the gate for every route of such a kind, and by what gives a command its input.
"""

from aiohttp import web

from shellrunner.access import Identity, command_rules
from shellrunner.errors import NotYours
from shellrunner.web.app_keys import STORE, job_id


async def check_owner(request: web.Request, who: Identity) -> None:
    """Let a bound identity touch only what it submitted itself.

    Raises:
        NotYours: it is another's, or many are meant.
        NoSuchJob: it is nobody's.
    """
    if "id" in request.match_info:
        command_rules.check_ownership(who, await request.app[STORE].job(job_id(request)))
    elif request.method != "POST":
        raise NotYours("a token with run_as or commands deletes one job at a time")


async def check_stdin(request: web.Request, who: Identity) -> None:
    """Let a bound identity speak only to what it may still start.

    Raises:
        NotYours, CommandNotAllowed, NoSuchJob.
    """
    if who.is_restricted:
        command_rules.check_stdin(who, await request.app[STORE].job(job_id(request)))
