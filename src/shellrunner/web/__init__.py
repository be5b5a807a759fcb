"""The HTTP side: `make_app` and the route table, which is the API on one screen.

Speaks to a `Store` and nothing else. Must not know who runs the jobs, or how.
"""

from collections.abc import Callable, Sequence

from aiohttp import web

from shellrunner.config import Settings
from shellrunner.model import JobSpec, SignalRequest
from shellrunner.store import Store
from shellrunner.web import (
    changes,
    control,
    events,
    guard,
    jobs,
    openapi,
    output,
    probes,
    queues,
    raw,
    results,
    statuses,
)
from shellrunner.web.board import BOARD, Board
from shellrunner.web.control import CONTROLS, Controls
from shellrunner.web.feed import FEEDS, Feeds
from shellrunner.web.guard import Terms
from shellrunner.web.keys import READY, RENDER, SETTINGS, STORE, Render
from shellrunner.web.lists import FILTERS
from shellrunner.web.lists import PARAMETERS as LISTS
from shellrunner.web.protocol import Runner
from shellrunner.web.route import ATTEMPT, EMPTY, ID, JSON, SSE, TEXT, Route
from shellrunner.web.streams import STREAMS, Streams

__all__ = ["ROUTES", "Route", "Runner", "make_app"]

# An answer that did not read all of its request stays readable for so long, while the rest is read and dropped.
_PROTOCOL = {"access_log": None, "keepalive_timeout": 75.0, "lingering_time": 2.0}
_RAW = "200 206 304 no-result-yet result-gone"


# fmt: off
# HEAD goes wherever GET does; OPTIONS and wrong verbs are the gate's.
ROUTES = (
    Route("GET", "/api", probes.index, JSON, answers="200:Index 304"),
    Route("GET", "/api/openapi.json", openapi.show, JSON, answers="200 304"),
    Route("GET", "/api/jobs", jobs.index, JSON, LISTS, "200:Jobs 304"),
    Route("POST", "/api/jobs", jobs.submit, JSON, takes=JobSpec, headers="Idempotency-Key Prefer",
          answers="202:Job 200:Result job-gone invalid-job key-reused queue-full"),
    Route("DELETE", "/api/jobs", jobs.remove_many, JSON, f"{FILTERS} confirm",
          "200:Removed unconfirmed precondition-failed"),
    Route("GET", f"/api/jobs/{ID}", jobs.show, JSON, answers="200:Job 304"),
    Route("DELETE", f"/api/jobs/{ID}", jobs.remove, EMPTY, answers="204 not-done precondition-failed"),
    Route("POST", f"/api/jobs/{ID}/cancel", jobs.cancel, JSON, answers="202:Status already-done"),
    Route("POST", f"/api/jobs/{ID}/signal", control.signal, JSON, takes=SignalRequest,
          answers="202:Status not-running invalid-signal keeper-silent"),
    Route("POST", f"/api/jobs/{ID}/stdin", control.stdin, EMPTY, "end offset", takes=bytes,
          answers="204 not-running input-closed wrong-offset input-full keeper-silent"),
    Route("GET", "/api/queues", queues.index, JSON, answers="200:Queues 304"),
    Route("POST", "/api/queues/pause", queues.pause_all, JSON, answers="200:Queues"),
    Route("POST", "/api/queues/resume", queues.resume_all, JSON, answers="200:Queues"),
    Route("POST", "/api/queues/{name}/pause", queues.pause, JSON, answers="200:Queue no-such-queue"),
    Route("POST", "/api/queues/{name}/resume", queues.resume, JSON, answers="200:Queue no-such-queue"),
    Route("GET", "/api/statuses", statuses.index, JSON, LISTS, "200:Statuses 304"),
    Route("GET", "/api/statuses/events", changes.follow, SSE, "last_event_id", "200", "Last-Event-ID"),
    Route("GET", f"/api/statuses/{ID}", statuses.show, JSON, headers="Prefer", answers="200:Status 303:Status 304"),
    Route("GET", f"/api/statuses/{ID}/events", events.follow, SSE, "last_event_id encoding",
          headers="Last-Event-ID", answers="200 204 result-gone"),
    Route("GET", f"/api/statuses/{ID}/output", output.show, TEXT, "stream tail follow", "200 result-gone"),
    Route("GET", "/api/results", results.index, JSON, LISTS, "200:Results 304"),
    Route("GET", f"/api/results/{ID}", results.show, JSON, answers="200:Result 304 no-result-yet result-gone"),
    Route("DELETE", f"/api/results/{ID}", results.remove, EMPTY,
          answers="204 no-result-yet result-gone precondition-failed"),
    Route("GET", f"/api/results/{ID}/stdout", raw.stdout, TEXT, "download", _RAW),
    Route("GET", f"/api/results/{ID}/stderr", raw.stderr, TEXT, "download", _RAW),
    Route("GET", f"/api/results/{ID}/attempts/{ATTEMPT}", results.show, JSON,
          answers="200:Result 304 no-such-attempt no-result-yet result-gone"),
    Route("GET", f"/api/results/{ID}/attempts/{ATTEMPT}/stdout", raw.stdout, TEXT, "download",
          answers=f"{_RAW} no-such-attempt"),
    Route("GET", f"/api/results/{ID}/attempts/{ATTEMPT}/stderr", raw.stderr, TEXT, "download",
          answers=f"{_RAW} no-such-attempt"),
    Route("GET", "/healthz", probes.health, EMPTY, answers="200:text/plain"),
    Route("GET", "/readyz", probes.readiness, EMPTY, answers="200:text/plain not-ready"),
    Route("GET", "/metrics", probes.metrics, EMPTY,
          answers="200:text/plain 200:application/openmetrics-text not-acceptable"),
)
# fmt: on


def make_app(
    store: Store, settings: Settings, ready: Callable[[], Sequence[str]], controls: Controls, render: Render
) -> web.Application:
    """Build the app. `ready` says why jobs are not accepted and run just now (nothing: they are); `render` has the
    figures of the whole service."""
    terms = {row.handler: Terms(frozenset(row.parameters.split()), row.produces) for row in ROUTES}
    app = web.Application(middlewares=[guard.gate(terms)], client_max_size=1 << 20, handler_args=_PROTOCOL)
    app[STORE], app[SETTINGS], app[READY], app[CONTROLS] = store, settings, ready, controls
    app[RENDER] = render
    app[openapi.DESCRIPTION] = openapi.Description(ROUTES, settings, controls.signals)
    app[STREAMS], app[FEEDS], app[BOARD] = Streams(), Feeds(store), Board(store)
    app.on_shutdown.append(_end_streams)
    app.add_routes([_definition(row) for row in ROUTES])
    return app


def _definition(row: Route) -> web.RouteDef:
    return web.get(row.path, row.handler) if row.verb == "GET" else web.route(row.verb, row.path, row.handler)


async def _end_streams(app: web.Application) -> None:
    app[STREAMS].close()
