"""Queues: how much waits and runs in each, and holding them.

Handlers of the routes under /api/queues. Must not know how jobs are run.
"""

from aiohttp import web

from shellrunner.clock import format_rfc3339
from shellrunner.store import QueueOverview, QueueState
from shellrunner.web.app_keys import STORE
from shellrunner.web.http import responses
from shellrunner.web.http.streaming import STREAMS
from shellrunner.wire import documents


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/queues: every queue, and how many of its jobs stand where."""
    return await responses.ok(request, _queues(await request.app[STORE].queues()))


async def pause(request: web.Request) -> web.StreamResponse:
    """POST /api/queues/{name}/pause: start nothing new of this queue; what runs goes on."""
    return await _one(request, paused=True)


async def resume(request: web.Request) -> web.StreamResponse:
    """POST /api/queues/{name}/resume: start jobs of this queue again."""
    return await _one(request, paused=False)


async def pause_all(request: web.Request) -> web.StreamResponse:
    """POST /api/queues/pause: start nothing new of any queue, also of those that are yet to come."""
    return await _all(request, paused=True)


async def resume_all(request: web.Request) -> web.StreamResponse:
    """POST /api/queues/resume: start jobs again, but for queues that are paused by themselves."""
    return await _all(request, paused=False)


async def _one(request: web.Request, *, paused: bool) -> web.StreamResponse:
    request.app[STREAMS].raise_if_closing()
    name = request.match_info["name"]
    found = await request.app[STORE].pause(name, paused=paused)
    (queue,) = [queue for queue in found.queues if queue.name == name]
    return await responses.no_store(request, 200, _queue(queue), {})


async def _all(request: web.Request, *, paused: bool) -> web.StreamResponse:
    request.app[STREAMS].raise_if_closing()
    return await responses.no_store(request, 200, _queues(await request.app[STORE].pause(None, paused=paused)), {})


def _queues(found: QueueOverview) -> documents.Queues:
    return {"paused": found.paused, "queues": [_queue(queue) for queue in found.queues]}


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
