"""Live usage: what the processes of running jobs use at the moment.

Handlers of GET /api/statuses/{id}/usage and /api/statuses/usage. Must not know how it is measured.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from aiohttp import web

from shellrunner.errors import KeeperSilent, NotRunning
from shellrunner.model import LiveUsage
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.http import responses
from shellrunner.wire import serialize


class UsageReader(Protocol):
    """Measures running jobs; `live_usage` implements it."""

    @property
    def processors(self) -> int:
        """How many processors jobs may use, as of the last measurement."""

    async def measure(self) -> Mapping[int, LiveUsage]:
        """Return what each running job uses, by job; without those whose keeper is not known at the moment."""

    async def measure_job(self, job_id: int, /) -> LiveUsage | None:
        """Return what one running job uses; None if its keeper is not known at the moment."""


USAGE_READER: Final[web.AppKey[UsageReader]] = web.AppKey("usage")


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/{id}/usage: return what the processes of a running job use now.

    It is measured on request only, so it can be polled every second or two.
    """
    number = job_id(request)
    stored = await request.app[STORE].stored_job(number)
    if not stored.is_running:
        raise NotRunning(number)
    usage = await request.app[USAGE_READER].measure_job(number)
    if usage is None:
        if (await request.app[STORE].stored_job(number)).is_running:
            raise KeeperSilent(number)
        raise NotRunning(number)
    return await responses.no_store(request, 200, serialize.live_usage(number, usage), {})


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/usage: return what the processes of all running jobs use now."""
    meter = request.app[USAGE_READER]
    return await responses.no_store(request, 200, serialize.live_usages(await meter.measure(), meter.processors), {})
