"""The index, and what whoever watches over the service asks for.

Handlers of /api, /healthz, /readyz and /metrics; the first two probes answer under any Host and tell no detail.
"""

import logging
from typing import Final

from aiohttp import hdrs, web

from shellrunner.web.app_keys import NOT_READY_REASONS, RENDER_METRICS, FrontFigures
from shellrunner.web.http import problems, responses
from shellrunner.web.http.accept import accepts
from shellrunner.web.http.connections import CONNECTIONS
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.streaming import STREAMS
from shellrunner.wire import documents

log = logging.getLogger("shellrunner.web")

_OK: Final = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
_TEXT: Final = "text/plain"
_OPENMETRICS: Final = "application/openmetrics-text"
_FORMATS: Final = {
    _TEXT: "text/plain; version=0.0.4; charset=utf-8",
    _OPENMETRICS: "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
_FOLLOWED: Final = {
    "/api/statuses/{id}/events": "events",
    "/api/statuses/{id}/output": "output",
    "/api/statuses/events": "statuses",
}
_LINKS: Final[documents.Index] = {
    "jobs": "/api/jobs",
    "statuses": "/api/statuses",
    "results": "/api/results",
    "queues": "/api/queues",
    "health": "/healthz",
    "ready": "/readyz",
    "metrics": "/metrics",
    "openapi": "/api/openapi.json",
}


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api: where to go from here."""
    return await responses.ok(request, _LINKS)


async def health(request: web.Request) -> web.Response:
    """GET /healthz: the process answers."""
    return web.Response(body=b"ok\n", headers=_OK)


async def readiness(request: web.Request) -> web.Response:
    """GET /readyz: jobs are accepted and run."""
    reasons = ["shutting down"] if request.app[STREAMS].closing else request.app[NOT_READY_REASONS]()
    if not reasons:
        return web.Response(body=b"ready\n", headers=_OK)
    log.warning("not ready: %s", "; ".join(reasons))
    return problems.problem("not-ready", "jobs are not run just now; the service's log says why")


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: every figure, for Prometheus."""
    kind = _format(", ".join(request.headers.getall(hdrs.ACCEPT, ())))
    streams = request.app[STREAMS].count()
    followers = {kind: streams[path] for path, kind in _FOLLOWED.items()}
    connections = request.app[CONNECTIONS]
    front = FrontFigures(followers, len(connections), connections.cut, connections.problems)
    content = await request.app[RENDER_METRICS](front, openmetrics=kind == _OPENMETRICS)
    headers = {"Content-Type": _FORMATS[kind], "Cache-Control": "no-store", "Vary": "Accept"}
    return web.Response(body=content, headers=headers)


def _format(accept: str) -> str:
    """OpenMetrics for whoever names it; the older text, which browsers show, for all others.

    Versions and escapings in `Accept` make no difference: all versions' readers read ours, and our names are ASCII.

    Raises:
        HttpProblem: neither is wanted.
    """
    if _OPENMETRICS in accept.lower() and accepts(accept, _OPENMETRICS):
        return _OPENMETRICS
    if accepts(accept, _TEXT):
        return _TEXT
    raise HttpProblem("not-acceptable", f"this is {_TEXT} or {_OPENMETRICS}, and Accept excludes both")
