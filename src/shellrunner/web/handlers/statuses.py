"""Statuses: how far each job is, and the way on to its result.

Handlers of GET /api/statuses and /api/statuses/{id}; `events` and `output` have the live ones.
"""

from aiohttp import web

from shellrunner.model import Job
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.handlers import lists, prefer
from shellrunner.web.http import responses
from shellrunner.wire import serialize


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/{id}: how far the job is, and afterwards the way to its result.

    200 until it is done, then 303 to its result (200 again once that was deleted).
    """
    job, headers = await request.app[STORE].job(job_id(request)), {"Vary": "Prefer"}
    seconds = prefer.asked(request)
    if seconds is not None:
        headers |= {"Cache-Control": "no-store"} | prefer.applied(seconds)
        job = job if job.done else await prefer.until_done(request, job, seconds)
    link = serialize.result_link(job)
    if link is not None:
        return responses.see_other(link, serialize.status(job), headers)
    return await responses.ok(
        request, serialize.status(job), headers if job.done else {**headers, "Retry-After": "1"}
    )


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses: a page of statuses, the newest first unless sorted."""
    return await lists.Listing.asked(request, lists.STATUSES).answer(request, _row)


async def _row(job: Job) -> serialize.Document:
    return serialize.status(job)
