"""The HTTP side: `make_app` and the route table, which is the API on one screen.

Speaks to a `Store` and nothing else. Must not know who runs the jobs, or how.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiohttp import web

from shellrunner.config import Settings
from shellrunner.store import Store
from shellrunner.web import events, guard, jobs, output, probes, raw, results, statuses
from shellrunner.web.feed import FEEDS, Feeds
from shellrunner.web.guard import Handler, Terms
from shellrunner.web.keys import READY, SETTINGS, STORE
from shellrunner.web.protocol import Runner
from shellrunner.web.streams import STREAMS, Streams

__all__ = ["ROUTES", "Route", "Runner", "make_app"]

JSON, TEXT, SSE, EMPTY = "application/json", "text/plain", "text/event-stream", ""
ID = "{id:[1-9][0-9]{0,17}}"


# An answer that did not read all of its request stays readable for so long, while the rest is read and dropped.
_PROTOCOL = {"access_log": None, "keepalive_timeout": 75.0, "lingering_time": 2.0}


class Route(NamedTuple):
    """A verb and a path, who answers, with what type, and the parameters of the query."""

    verb: str
    path: str
    handler: Handler
    produces: str
    parameters: str = ""


# HEAD goes wherever GET does; OPTIONS and wrong verbs are the gate's.
ROUTES = (
    Route("GET", "/api", probes.index, JSON),
    Route("GET", "/api/jobs", jobs.index, JSON, "state limit cursor"),
    Route("POST", "/api/jobs", jobs.submit, JSON),
    Route("GET", f"/api/jobs/{ID}", jobs.show, JSON),
    Route("DELETE", f"/api/jobs/{ID}", jobs.remove, EMPTY),
    Route("POST", f"/api/jobs/{ID}/cancel", jobs.cancel, JSON),
    Route("GET", "/api/statuses", statuses.index, JSON, "state limit cursor"),
    Route("GET", f"/api/statuses/{ID}", statuses.show, JSON),
    Route("GET", f"/api/statuses/{ID}/events", events.follow, SSE, "last_event_id encoding"),
    Route("GET", f"/api/statuses/{ID}/output", output.show, TEXT, "stream tail follow"),
    Route("GET", "/api/results", results.index, JSON, "state limit cursor"),
    Route("GET", f"/api/results/{ID}", results.show, JSON),
    Route("DELETE", f"/api/results/{ID}", results.remove, EMPTY),
    Route("GET", f"/api/results/{ID}/stdout", raw.stdout, TEXT, "download"),
    Route("GET", f"/api/results/{ID}/stderr", raw.stderr, TEXT, "download"),
    Route("GET", "/healthz", probes.health, EMPTY),
    Route("GET", "/readyz", probes.readiness, EMPTY),
)


def make_app(store: Store, settings: Settings, ready: Callable[[], Sequence[str]]) -> web.Application:
    """Build the app. `ready` says why jobs are not accepted and run just now (nothing: they are)."""
    terms = {row.handler: Terms(frozenset(row.parameters.split()), row.produces) for row in ROUTES}
    app = web.Application(middlewares=[guard.gate(terms)], client_max_size=1 << 20, handler_args=_PROTOCOL)
    app[STORE], app[SETTINGS], app[READY] = store, settings, ready
    app[STREAMS], app[FEEDS] = Streams(), Feeds(store)
    app.on_shutdown.append(_end_streams)
    app.add_routes([_definition(row) for row in ROUTES])
    return app


def _definition(row: Route) -> web.RouteDef:
    return web.get(row.path, row.handler) if row.verb == "GET" else web.route(row.verb, row.path, row.handler)


async def _end_streams(app: web.Application) -> None:
    app[STREAMS].close()
