"""The index, and the probes of whoever watches over the service.

Handlers of /api, /healthz and /readyz; the probes answer under any Host and tell no detail.
"""

import logging
from typing import Final

from aiohttp import web

from shellrunner.web import answers, problems
from shellrunner.web.keys import READY
from shellrunner.web.streams import STREAMS

log = logging.getLogger("shellrunner.web")

_OK: Final = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
_LINKS: Final = {
    "jobs": "/api/jobs",
    "statuses": "/api/statuses",
    "results": "/api/results",
    "health": "/healthz",
    "ready": "/readyz",
}


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api: where to go from here."""
    return await answers.resource(request, _LINKS)


async def health(request: web.Request) -> web.Response:
    """GET /healthz: the process answers."""
    return web.Response(body=b"ok\n", headers=_OK)


async def readiness(request: web.Request) -> web.Response:
    """GET /readyz: jobs are accepted and run."""
    reasons = ["shutting down"] if request.app[STREAMS].closing else request.app[READY]()
    if not reasons:
        return web.Response(body=b"ready\n", headers=_OK)
    log.warning("not ready: %s", "; ".join(reasons))
    return problems.problem("not-ready", "jobs are not run just now; the service's log says why")
