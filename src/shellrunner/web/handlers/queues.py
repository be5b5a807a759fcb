"""Queues: how many jobs are in each, pausing and resuming.

Handlers of the routes under /api/queues. Must not know how jobs are run.
"""

from aiohttp import web

from shellrunner.clock import format_rfc3339
from shellrunner.store import QueueOverview, QueueState
from shellrunner.web.app_keys import STORE
from shellrunner.web.http import responses
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit
from shellrunner.wire import documents


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/queues: list all queues, and how many of their jobs are in each state."""
    return await responses.ok(request, _queues(await request.app[STORE].queues()))


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
        "limit": queue.limit,
        "paused": queue.paused,
        "running": queue.running,
        "queued": queue.queued,
        "waiting": queue.waiting,
        "oldest": None if queue.oldest is None else format_rfc3339(queue.oldest),
    }
