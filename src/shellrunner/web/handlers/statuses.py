"""Statuses: how far each job is, and where its result is.

Handlers of GET /api/statuses and /api/statuses/{id}; `job_events`, `status_events` and `output` have the live ones.
"""

from collections.abc import Sequence
from functools import partial

from aiohttp import web

from shellrunner.store.pagination import ListedJob
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.handlers import lists, prefer, row_cache
from shellrunner.web.http import responses
from shellrunner.web.status_view import STATUS_VIEW, StatusView
from shellrunner.wire import serialize


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/{id}: return how far the job is, and redirect to its result once it is done.

    200 until the job is done, then 303 to its result (200 again after the result was deleted).
    """
    store, headers = request.app[STORE], {"Vary": "Prefer"}
    stored = await store.stored_job(job_id(request))
    seconds = prefer.requested_wait(request)
    if seconds is not None:
        headers |= {"Cache-Control": "no-store"} | prefer.applied_header(seconds)
        if not stored.is_done:
            await prefer.wait_until_done(request, stored.whole_job(), seconds)
            stored = await store.stored_job(stored.id)
    # Without its specification, which need not be parsed for it.
    live = request.app[STATUS_VIEW].live_state_of(stored)
    content = row_cache.document(request, ("status", live), stored, lambda: serialize.status(stored.status(), *live))
    if stored.has_result:
        return responses.see_other(serialize.result_path(stored.id), content, headers)
    return await responses.ok_bytes(request, content, headers if stored.is_done else {**headers, "Retry-After": "1"})


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses: list statuses, the newest first unless sorted otherwise."""
    rows = partial(_rows, request.app[STATUS_VIEW])
    return await lists.PageRequest.parse(request, lists.STATUSES).respond(request, rows)


async def _rows(view: StatusView, jobs: Sequence[ListedJob]) -> list[lists.Row]:
    # The state of a running command is not the history's, nor why a queued job does not start.
    return [
        lists.Row(view.document(listed.status()), is_final=not (listed.is_running or listed.is_queued))
        for listed in jobs
    ]
