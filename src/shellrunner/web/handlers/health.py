"""The index of the API, health probes and metrics.

Handlers of /api, /healthz, /readyz and /metrics. The probes are served under any Host and disclose no details.
"""

import logging
from collections.abc import Sequence
from typing import Final

from aiohttp import hdrs, web

from shellrunner import ascii_text
from shellrunner.machine import machine_digest
from shellrunner.web.app_keys import (
    NOT_READY_REASONS,
    RENDER_METRICS,
    STORE,
    HttpFigures,
    NotReady,
    identity_of,
)
from shellrunner.web.http import problems, responses
from shellrunner.web.http.accept import accepts
from shellrunner.web.http.connections import CONNECTIONS
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security.audit import AUDIT
from shellrunner.wire import documents

log = logging.getLogger("shellrunner.web")

_PROBE_HEADERS: Final = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
_HELD: Final = b"ready, but all jobs are held until an admin resumes them: the history was copied or restored\n"
_TEXT: Final = "text/plain"
_OPENMETRICS: Final = "application/openmetrics-text"
_CONTENT_TYPES: Final = {
    _TEXT: "text/plain; version=0.0.4; charset=utf-8",
    _OPENMETRICS: "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
_STREAM_KINDS: Final = {
    "/api/statuses/{id}/events": "events",
    "/api/statuses/{id}/output": "output",
    "/api/statuses/events": "statuses",
}


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api: return the entry points of the API, which machine it is on, and what the client may do."""
    identity = identity_of(request)
    content: documents.Index = {
        "jobs": "/api/jobs",
        "statuses": "/api/statuses",
        "results": "/api/results",
        "queues": "/api/queues",
        "workers": "/api/workers",
        "keepers": "/api/keepers",
        "health": "/healthz",
        "ready": "/readyz",
        "metrics": "/metrics",
        "openapi": "/api/openapi.json",
        "machine": machine_digest(),
        "identity": identity.name,
        "scopes": sorted(identity.scopes),
    }
    return await responses.ok(request, content)


async def health(request: web.Request) -> web.Response:
    """GET /healthz: report that the process responds."""
    return web.Response(body=b"ok\n", headers=_PROBE_HEADERS)


async def readiness(request: web.Request) -> web.Response:
    """GET /readyz: report whether a job would be accepted now, and run."""
    if request.app[STREAMS].closing:
        reasons: Sequence[NotReady] = [NotReady("shutting-down", "shutting down")]
    else:
        reasons = await request.app[NOT_READY_REASONS]()
    if not reasons:
        # Submissions are accepted, and wait: that is for an admin to see, and no reason to send clients elsewhere.
        held = request.app[STORE].held
        return web.Response(body=_HELD if held else b"ready\n", headers=_PROBE_HEADERS)
    kinds = [reason.kind for reason in reasons]
    details = "; ".join(reason.detail for reason in reasons)
    log.warning("not ready: %s", details, extra={"repeats": f"not ready: {', '.join(kinds)}"})
    detail = f"jobs are not accepted or run at the moment ({', '.join(kinds)}); the service's log says more"
    return problems.problem("not-ready", detail, reasons=kinds)


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: return the metrics of the service in a format of Prometheus."""
    media_type = _negotiate(", ".join(request.headers.getall(hdrs.ACCEPT, ())))
    streams = request.app[STREAMS].count()
    followers = {kind: streams[path] for path, kind in _STREAM_KINDS.items()}
    connections = request.app[CONNECTIONS]
    figures = HttpFigures(
        followers,
        len(connections),
        connections.unauthenticated,
        connections.cut,
        connections.problems,
        request.app[AUDIT].suppressed,
    )
    content = await request.app[RENDER_METRICS](figures, openmetrics=media_type == _OPENMETRICS)
    headers = {"Content-Type": _CONTENT_TYPES[media_type], "Cache-Control": "no-store", "Vary": "Accept"}
    return web.Response(body=content, headers=headers)


def _negotiate(accept: str) -> str:
    """Choose OpenMetrics if `Accept` names it, and otherwise the older text format, which browsers display.

    Versions and escaping schemes in `Accept` are ignored: readers of all versions understand these responses, and
    the names of the metrics are ASCII.

    Raises:
        HttpProblem: `Accept` excludes both.
    """
    if _OPENMETRICS in ascii_text.lower(accept) and accepts(accept, _OPENMETRICS):
        return _OPENMETRICS
    if accepts(accept, _TEXT):
        return _TEXT
    raise HttpProblem("not-acceptable", f"Accept excludes {_TEXT} and {_OPENMETRICS}, the formats of this route")
