"""The web application: `make_app`, and the route table, which is the API on one screen.

Reads and writes the history through `History`, and reaches running commands through `JobControls`. Must not know how
jobs are run, or who runs them.
"""

import ipaddress
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from shellrunner.access.authenticator import Authenticator
from shellrunner.config import ServerSettings, Settings
from shellrunner.model import AgainRequest, JobBatch, JobPatch, JobSpec, QueueChange, ResizeRequest, SignalRequest
from shellrunner.model.names import MAX_BATCH_BYTES, MAX_BODY_BYTES
from shellrunner.store import History, Hosts
from shellrunner.store.hosts import WriterLeases
from shellrunner.web import openapi
from shellrunner.web.app_keys import (
    AUTHENTICATOR,
    HOSTS,
    NOT_READY_REASONS,
    RENDER_METRICS,
    SETTINGS,
    STORE,
    NotReady,
    RenderMetrics,
)
from shellrunner.web.feeds.job_feed import JOB_FEEDS, JobFeeds
from shellrunner.web.feeds.line_index import LINE_INDEXES, LineIndexes
from shellrunner.web.feeds.status_feed import STATUS_FEED, StatusFeed
from shellrunner.web.feeds.writers import WRITERS, Writers
from shellrunner.web.handlers import (
    bulk,
    control,
    documentation,
    health,
    job_events,
    jobs,
    keepers,
    output,
    output_search,
    page,
    queues,
    result_bytes,
    results,
    session,
    status_events,
    statuses,
    usage,
    workers,
)
from shellrunner.web.handlers.control import CONTROLS, JobControls
from shellrunner.web.handlers.keepers import UNKNOWN_KEEPERS, UnknownKeeperControls
from shellrunner.web.handlers.lists import FILTER_PARAMETERS
from shellrunner.web.handlers.lists import PARAMETERS as LISTS
from shellrunner.web.handlers.row_cache import ROW_CACHE, RowCache
from shellrunner.web.handlers.usage import USAGE_READER, UsageReader
from shellrunner.web.http.connections import CONNECTIONS, ConnectionLimits, Connections
from shellrunner.web.http.problems import STATUSES
from shellrunner.web.http.revocation import REVOCATIONS, Revocations
from shellrunner.web.http.server_protocol import Runner
from shellrunner.web.http.streaming import STREAMS, Streams
from shellrunner.web.route import ATTEMPT, EMPTY, HOST, HTML, ID, JSON, KEEPER, QUEUE, SSE, TEXT, Access, Route
from shellrunner.web.security import middleware
from shellrunner.web.security.audit import AUDIT, Audit, AuditSink
from shellrunner.web.security.loopback import BoundAddresses
from shellrunner.web.security.middleware import RoutePolicy
from shellrunner.web.security.origin import OriginPolicy
from shellrunner.web.status_view import STATUS_VIEW, StatusView

__all__ = ["ROUTES", "WORKER_ROUTES", "Route", "Runner", "make_app"]

# `lingering_time`: after a response to a request that was not read whole, the rest is read and discarded for this
# long, so that the client can still read the response. `auto_decompress`: compressed bodies are rejected, but aiohttp
# would still decompress the rest while it discards it, and a megabyte of zeros, from anybody, would occupy the one
# thread that serves everybody for all of that time.
_SERVER_OPTIONS = {
    "access_log": None,
    "keepalive_timeout": 75.0,
    "lingering_time": 2.0,
    "auto_decompress": False,
}
_DOCS = " ".join(f"200:{content_type.partition(';')[0]}" for content_type in documentation.TYPES.values())
_RAW = "200 206 304 no-result-yet result-gone"


# fmt: off
# HEAD is served wherever GET is; OPTIONS and unsupported verbs are answered by the security middleware.
ROUTES = (
    Route("GET", "/api", health.index, Access.AUTHENTICATED, JSON, answers="200:Index 304"),
    Route("GET", "/api/openapi.json", openapi.show, Access.AUTHENTICATED, JSON, answers="200 304"),
    Route("GET", "/api/jobs", jobs.index, Access.READ, JSON, LISTS, "200:Jobs 304"),
    Route("POST", "/api/jobs", jobs.submit, Access.RUN, JSON, body=JobSpec, headers="Idempotency-Key Prefer",
          answers="202:Job 200:Result job-gone invalid-job key-reused queue-full too-many-queued-jobs no-space "
          "command-not-allowed"),
    Route("POST", "/api/jobs/batch", jobs.submit_many, Access.RUN, JSON, body=JobBatch, headers="Idempotency-Key",
          answers="202:SubmittedJobs job-gone invalid-job key-reused queue-full too-many-queued-jobs no-space "
          "command-not-allowed", max_body=MAX_BATCH_BYTES),
    Route("POST", "/api/jobs/cancel", bulk.cancel_many, Access.RUN_MANY, JSON, f"{FILTER_PARAMETERS} confirm",
          "200:Cancelled unconfirmed not-yours"),
    Route("DELETE", "/api/jobs", bulk.remove_many, Access.RUN_MANY, JSON, f"{FILTER_PARAMETERS} confirm",
          "200:Removed unconfirmed precondition-failed not-yours"),
    Route("GET", f"/api/jobs/{ID}", jobs.show, Access.READ, JSON, answers="200:Job 304"),
    Route("PATCH", f"/api/jobs/{ID}", jobs.edit, Access.RUN, JSON, body=JobPatch,
          answers="200:Job already-done already-started invalid-job job-changed queue-full precondition-failed "
          "not-yours command-not-allowed"),
    Route("DELETE", f"/api/jobs/{ID}", jobs.remove, Access.RUN, EMPTY,
          answers="204 not-done precondition-failed not-yours"),
    Route("POST", f"/api/jobs/{ID}/again", jobs.again, Access.RUN, JSON, body=AgainRequest,
          headers="Idempotency-Key Prefer",
          answers="202:Job 200:Result job-gone invalid-job key-reused queue-full too-many-queued-jobs no-space "
          "not-yours command-not-allowed"),
    Route("POST", f"/api/jobs/{ID}/cancel", jobs.cancel, Access.RUN, JSON,
          answers="202:Status already-done not-yours"),
    Route("POST", f"/api/jobs/{ID}/signal", control.signal, Access.RUN, JSON, body=SignalRequest,
          answers="202:Status not-running invalid-signal keeper-silent not-yours command-not-allowed"),
    Route("POST", f"/api/jobs/{ID}/stdin", control.stdin, Access.RUN, EMPTY, "end offset writer take", body=bytes,
          answers="204 not-running input-closed input-taken wrong-offset input-full keeper-silent not-yours "
          "command-not-allowed"),
    Route("POST", f"/api/jobs/{ID}/pause", control.pause, Access.RUN, JSON,
          answers="202:Status not-running being-ended keeper-silent not-yours command-not-allowed"),
    Route("POST", f"/api/jobs/{ID}/resume", control.resume, Access.RUN, JSON,
          answers="202:Status not-running keeper-silent not-yours command-not-allowed"),
    Route("POST", f"/api/jobs/{ID}/tty", control.resize, Access.RUN, JSON, body=ResizeRequest,
          answers="202:Status not-running no-terminal invalid-size keeper-silent not-yours command-not-allowed"),
    Route("GET", "/api/queues", queues.index, Access.READ, JSON, answers="200:Queues 304"),
    Route("POST", "/api/queues/pause", queues.pause_all, Access.ADMIN, JSON, answers="200:Queues"),
    Route("POST", "/api/queues/resume", queues.resume_all, Access.ADMIN, JSON, answers="200:Queues"),
    Route("GET", f"/api/queues/{QUEUE}", queues.show, Access.READ, JSON, answers="200:Queue 304 no-such-queue"),
    Route("PUT", f"/api/queues/{QUEUE}", queues.put, Access.ADMIN, JSON, body=QueueChange,
          answers="200:Queue 201:Queue invalid-queue too-many-queues precondition-failed"),
    Route("DELETE", f"/api/queues/{QUEUE}", queues.remove, Access.ADMIN, EMPTY,
          answers="204 no-such-queue queue-configured queue-not-empty precondition-failed"),
    Route("POST", "/api/queues/{name}/pause", queues.pause, Access.ADMIN, JSON, answers="200:Queue no-such-queue"),
    Route("POST", "/api/queues/{name}/resume", queues.resume, Access.ADMIN, JSON, answers="200:Queue no-such-queue"),
    Route("GET", "/api/workers", workers.index, Access.READ, JSON, answers="200:Workers 304"),
    Route("GET", f"/api/workers/{HOST}", workers.show, Access.READ, JSON, answers="200:Worker 304 no-such-host"),
    Route("DELETE", f"/api/workers/{HOST}", workers.remove, Access.ADMIN, JSON, "confirm",
          "200:RemovedWorker unconfirmed no-such-host host-reachable only-host"),
    Route("POST", f"/api/workers/{HOST}/drain", workers.drain, Access.ADMIN, JSON,
          answers="200:Worker no-such-host only-host"),
    Route("POST", f"/api/workers/{HOST}/resume", workers.resume, Access.ADMIN, JSON,
          answers="200:Worker no-such-host only-host"),
    Route("GET", "/api/keepers", keepers.index, Access.ADMIN, JSON, answers="200:Keepers 304"),
    Route("DELETE", f"/api/keepers/{KEEPER}", keepers.end, Access.ADMIN, JSON, "host",
          "202:Keepers no-such-keeper keeper-silent"),
    Route("GET", "/api/statuses", statuses.index, Access.WATCH, JSON, LISTS, "200:Statuses 304"),
    Route("GET", "/api/statuses/usage", usage.index, Access.WATCH, JSON, answers="200:LiveUsages"),
    Route("GET", f"/api/statuses/{ID}/usage", usage.show, Access.WATCH, JSON,
          answers="200:LiveUsage not-running keeper-silent"),
    Route("GET", "/api/statuses/events", status_events.follow, Access.WATCH, SSE, "last_event_id",
          headers="Last-Event-ID", answers="200 too-many-streams"),
    Route("GET", f"/api/statuses/{ID}", statuses.show, Access.WATCH, JSON, headers="Prefer",
          answers="200:Status 303:Status 304"),
    Route("GET", f"/api/statuses/{ID}/events", job_events.follow, Access.WATCH, SSE, "last_event_id encoding writer",
          headers="Last-Event-ID", answers="200 204 result-gone too-many-streams"),
    Route("GET", f"/api/statuses/{ID}/output", output.show, Access.WATCH, TEXT,
          "stream from tail follow find match_case backward limit",
          answers="200 200:OutputMatches result-gone too-many-streams", alternative=JSON),
    Route("GET", f"/api/statuses/{ID}/output/line", output_search.line, Access.WATCH, JSON, "stream number from",
          answers="200:OutputLine result-gone"),
    Route("GET", "/api/results", results.index, Access.READ, JSON, LISTS, "200:Results 304"),
    Route("GET", f"/api/results/{ID}", results.show, Access.READ, JSON,
          answers="200:Result 304 no-result-yet result-gone"),
    Route("DELETE", f"/api/results/{ID}", results.remove, Access.RUN, EMPTY,
          answers="204 no-result-yet result-gone precondition-failed not-yours"),
    Route("GET", f"/api/results/{ID}/stdout", result_bytes.stdout, Access.READ, TEXT, "download", _RAW),
    Route("GET", f"/api/results/{ID}/stderr", result_bytes.stderr, Access.READ, TEXT, "download", _RAW),
    Route("GET", f"/api/results/{ID}/attempts/{ATTEMPT}", results.show, Access.READ, JSON,
          answers="200:Result 304 no-such-attempt no-result-yet result-gone"),
    Route("GET", f"/api/results/{ID}/attempts/{ATTEMPT}/stdout", result_bytes.stdout, Access.READ, TEXT, "download",
          answers=f"{_RAW} no-such-attempt"),
    Route("GET", f"/api/results/{ID}/attempts/{ATTEMPT}/stderr", result_bytes.stderr, Access.READ, TEXT, "download",
          answers=f"{_RAW} no-such-attempt"),
    Route("POST", "/api/session", session.begin, Access.READ, EMPTY, answers="204 sessions-off"),
    Route("DELETE", "/api/session", session.end, Access.AUTHENTICATED, EMPTY, answers="204"),
    Route("GET", "/", page.show, Access.HOST_CHECKED, HTML, answers="200 304"),
    Route("GET", "/assets/{version}/{file:.+}", page.asset, Access.HOST_CHECKED, EMPTY, headers="Accept-Encoding",
          answers="200:text/css 200:text/javascript 200:image/svg+xml not-found"),
    Route("GET", "/llms.txt", documentation.summary, Access.HOST_CHECKED, EMPTY, headers="Accept-Encoding",
          answers="200:text/plain 304 not-found"),
    Route("GET", "/llms-full.txt", documentation.full_text, Access.HOST_CHECKED, EMPTY, headers="Accept-Encoding",
          answers="200:text/plain 304 not-found"),
    Route("GET", "/docs", documentation.redirect, Access.HOST_CHECKED, EMPTY, answers="308:text/plain"),
    Route("GET", "/docs/{page:.*}", documentation.show, Access.HOST_CHECKED, EMPTY, "q area check_keywords v",
          headers="Accept-Encoding", answers=f"{_DOCS} 304 not-found"),
    Route("GET", "/healthz", health.health, Access.PUBLIC, EMPTY, answers="200:text/plain"),
    Route("GET", "/readyz", health.readiness, Access.PUBLIC, EMPTY, answers="200:text/plain not-ready"),
    Route("GET", "/metrics", health.metrics, Access.READ, EMPTY,
          answers="200:text/plain 200:application/openmetrics-text not-acceptable"),
)
# fmt: on
# What a worker serves.
WORKER_ROUTES = tuple(row for row in ROUTES if row.path in {"/healthz", "/readyz", "/metrics"})


def make_app(
    store: History,
    settings: Settings,
    *,
    not_ready_reasons: Callable[[], Awaitable[Sequence[NotReady]]],
    controls: JobControls,
    unknown_keepers: UnknownKeeperControls,
    usage_reader: UsageReader,
    writer_leases: WriterLeases | None = None,
    render_metrics: RenderMetrics,
    hosts: Hosts,
    authenticator: Authenticator,
    audit_sink: AuditSink,
    bound_addresses: BoundAddresses,
    routes: Sequence[Route] = ROUTES,
) -> web.Application:
    """Build the application.

    `not_ready_reasons` returns why jobs are not accepted or run at the moment (empty: they are), `render_metrics`
    renders the metrics of the whole service, and `audit_sink` writes the events of the audit log. The app will be
    served on the `bound_addresses`. `routes`: those that it has.
    """
    policies = {
        row.handler: RoutePolicy(
            row.access, frozenset(row.parameters.split()), row.content_type, row.max_body, row.alternative
        )
        for row in routes
    }
    origins = OriginPolicy(settings.server, bound_addresses)
    audit = Audit(audit_sink, settings.audit)
    security_middleware = middleware.security_middleware(policies, origins, audit)
    app = web.Application(
        middlewares=[security_middleware], client_max_size=MAX_BODY_BYTES, handler_args=_SERVER_OPTIONS
    )
    app[STORE], app[SETTINGS], app[NOT_READY_REASONS], app[CONTROLS] = store, settings, not_ready_reasons, controls
    app[HOSTS] = hosts
    app[UNKNOWN_KEEPERS], app[USAGE_READER] = unknown_keepers, usage_reader
    app[RENDER_METRICS], app[AUTHENTICATOR] = render_metrics, authenticator
    app[openapi.OPENAPI] = openapi.OpenApiDocument(routes, settings, controls.signals)
    app[AUDIT] = audit
    app[CONNECTIONS] = Connections(_connection_limits(settings.server), STATUSES, audit.log_refused_connection)
    app[REVOCATIONS] = Revocations(authenticator)
    app[STREAMS] = Streams(settings.server.max_streams)
    app[ROW_CACHE], app[LINE_INDEXES] = RowCache(), LineIndexes()
    app[STATUS_VIEW] = view = StatusView(store, controls.command_state)
    app[JOB_FEEDS], app[STATUS_FEED] = JobFeeds(store, view), StatusFeed(store, view)
    app[WRITERS] = Writers(writer_leases)
    app.on_response_prepare.append(middleware.add_security_headers(origins))
    app.on_shutdown.append(_close_streams)
    app.on_cleanup.append(_close_audit)
    app.add_routes([_route_def(row) for row in routes])
    return app


def _connection_limits(server: ServerSettings) -> ConnectionLimits:
    return ConnectionLimits(
        max_connections=server.max_connections,
        max_unauthenticated=server.unauthenticated_share,
        max_unauthenticated_per_source=server.max_unauthenticated_per_source,
        proxies=tuple(ipaddress.ip_network(proxy) for proxy in server.proxies),
    )


def _route_def(row: Route) -> web.RouteDef:
    return web.get(row.path, row.handler) if row.verb == "GET" else web.route(row.verb, row.path, row.handler)


async def _close_streams(app: web.Application) -> None:
    app[STREAMS].close()


async def _close_audit(app: web.Application) -> None:
    app[AUDIT].close()
