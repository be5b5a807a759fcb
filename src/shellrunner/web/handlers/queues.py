"""Queues: how many jobs are in each, their limits, pausing and resuming.

Handlers of the routes under /api/queues. Must not know how jobs are run.
"""

from aiohttp import hdrs, web

from shellrunner.clock import format_rfc3339
from shellrunner.errors import BadParameter, NoSuchQueue
from shellrunner.model.names import NAME_RULE, NO_QUEUES, is_queue_name
from shellrunner.store import QueueLimit, QueueOverview, QueueState
from shellrunner.web.app_keys import STORE
from shellrunner.web.http import bodies, responses
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit
from shellrunner.wire import documents, json_codec, parse


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/queues: list all queues, and how many of their jobs are in each state."""
    return await responses.ok(request, _queues(await request.app[STORE].queues()))


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/queues/{name}: return a queue, its limits, and how many of its jobs are in each state."""
    return await responses.ok(request, _queue(await _find(request)))


async def put(request: web.Request) -> web.StreamResponse:
    """PUT /api/queues/{name}: set the limits of a queue, or make a new one.

    The limits replace those of the configuration, and are kept when the service restarts; to return to those of the
    configuration, set the same limits. Jobs that run or wait already stay, even if they exceed the limits.
    """
    app, name = request.app, request.match_info["name"]
    app[STREAMS].raise_if_closing()
    if not is_queue_name(name):
        raise BadParameter("name", f"the name of a queue must be {NAME_RULE}, and none of {', '.join(NO_QUEUES)}")
    change = parse.queue_change(await bodies.read_json(request))
    await _check_preconditions(request)
    limit = QueueLimit(change.max_running, change.max_queued)
    await audit.accept(request, queue=name, **limit._asdict())
    is_new = await app[STORE].limit_queue(name, limit)
    queue = _queue(await _find(request))
    headers = {"Location": f"/api/queues/{name}"} if is_new else {}
    return await responses.no_store(request, 201 if is_new else 200, queue, headers)


async def remove(request: web.Request) -> web.Response:
    """DELETE /api/queues/{name}: remove a queue that the configuration does not name, and whose jobs are all done."""
    request.app[STREAMS].raise_if_closing()
    await _check_preconditions(request)
    name = request.match_info["name"]
    await audit.accept(request, queue=name)
    await request.app[STORE].remove_queue(name)
    return web.Response(status=204)


async def pause(request: web.Request) -> web.StreamResponse:
    """POST /api/queues/{name}/pause: start no more jobs of this queue; running jobs continue."""
    return await _pause_one(request, paused=True)


async def resume(request: web.Request) -> web.StreamResponse:
    """POST /api/queues/{name}/resume: start jobs of this queue again."""
    return await _pause_one(request, paused=False)


async def pause_all(request: web.Request) -> web.StreamResponse:
    """POST /api/queues/pause: start no more jobs of any queue, also of queues that are configured later."""
    return await _pause_all(request, paused=True)


async def resume_all(request: web.Request) -> web.StreamResponse:
    """POST /api/queues/resume: start jobs again, except those of queues that are paused individually."""
    return await _pause_all(request, paused=False)


async def _find(request: web.Request) -> QueueState:
    """Return the queue that the path names.

    Raises:
        NoSuchQueue: no queue has this name.
    """
    name = request.match_info["name"]
    for queue in (await request.app[STORE].queues()).queues:
        if queue.name == name:
            return queue
    raise NoSuchQueue(name)


async def _check_preconditions(request: web.Request) -> None:
    """Check the preconditions of a change of the queue.

    Raises:
        HttpProblem: they are not met. `If-Match` never is if there is no such queue (RFC 9110, 13.1.1).
    """
    if not responses.has_preconditions(request):
        return
    try:
        tag = responses.etag(json_codec.dumps(_queue(await _find(request))))
    except NoSuchQueue:
        if hdrs.IF_MATCH in request.headers:
            raise HttpProblem("precondition-failed", "there is no such queue to match If-Match") from None
        return
    responses.check_preconditions(request, tag)


async def _pause_one(request: web.Request, *, paused: bool) -> web.StreamResponse:
    request.app[STREAMS].raise_if_closing()
    name = request.match_info["name"]
    await audit.accept(request, queue=name, paused=paused)
    overview = await request.app[STORE].pause(name, paused=paused)
    (queue,) = [queue for queue in overview.queues if queue.name == name]
    return await responses.no_store(request, 200, _queue(queue), {})


async def _pause_all(request: web.Request, *, paused: bool) -> web.StreamResponse:
    request.app[STREAMS].raise_if_closing()
    await audit.accept(request, queue=None, paused=paused)
    return await responses.no_store(request, 200, _queues(await request.app[STORE].pause(None, paused=paused)), {})


def _queues(overview: QueueOverview) -> documents.Queues:
    held = overview.held
    return {
        "paused": overview.paused,
        "held": {"reason": held.reason, "since": format_rfc3339(held.since)} if held else None,
        "queues": [_queue(queue) for queue in overview.queues],
    }


def _queue(queue: QueueState) -> documents.Queue:
    return {
        "queue": queue.name,
        "limit": queue.limit.max_running,
        "max_queued": queue.limit.max_queued,
        "configured": queue.is_configured,
        "paused": queue.paused,
        "running": queue.running,
        "queued": queue.queued,
        "waiting": queue.waiting,
        "oldest": None if queue.oldest is None else format_rfc3339(queue.oldest),
    }
