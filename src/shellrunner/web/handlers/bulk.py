"""Changes of all jobs that a list's filters select: delete, cancel.

Handlers of DELETE /api/jobs and POST /api/jobs/cancel. Must not know how jobs are run.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from shellrunner.errors import TokenNeeded
from shellrunner.web.app_keys import AUTHENTICATOR, STORE, identity_of
from shellrunner.web.handlers import lists
from shellrunner.web.http import parameters, responses
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit, audit_details
from shellrunner.wire import documents

log = logging.getLogger("shellrunner.web")


async def remove_many(request: web.Request) -> web.StreamResponse:
    """DELETE /api/jobs?…: delete all selected jobs that are done.

    They are deleted in small batches, also after the client disconnected. If the service stops meanwhile, or the
    token is revoked, some are deleted; repeat the request to delete the rest.
    """
    request.app[STREAMS].raise_if_closing()
    responses.check_preconditions(request, "")  # a list has no version, so no condition can be met
    store, selected = request.app[STORE], lists.filters(request)
    if not _is_confirmed(request):
        preview = await store.preview_delete(selected)
        kept = f"{preview.not_done} that are not done"
        raise _unconfirmed(
            f"this would delete {preview.deleted} jobs and keep {kept}",
            deleted=preview.deleted,
            kept=preview.not_done,
        )
    await audit.accept(request, **audit_details.of_query(request.query))
    job_ids: list[int] = []
    try:
        deleted, not_done = await store.delete_jobs(selected, _collector(request, job_ids))
    finally:
        audit.add_details(request, deleted=len(job_ids), **audit_details.of_ids(job_ids))
    log.info("jobs were deleted by a request", extra={"deleted": deleted, "kept": not_done})
    removed: documents.Removed = {"deleted": deleted, "kept": not_done}
    return await responses.no_store(request, 200, removed, {})


async def cancel_many(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/cancel?…: cancel all selected jobs that are not done.

    Each as by `POST /api/jobs/{id}/cancel`: those that have not started end at once, before any that is running, so
    that none starts in the place of another one. They are cancelled in small batches, also after the client
    disconnected. If the service stops meanwhile, or the token is revoked, some are cancelled; repeat the request.
    """
    request.app[STREAMS].raise_if_closing()
    store, selected = request.app[STORE], lists.filters(request)
    if not _is_confirmed(request):
        number = await store.preview_cancel(selected)
        raise _unconfirmed(f"this would cancel {number} jobs", cancelled=number)
    await audit.accept(request, **audit_details.of_query(request.query))
    job_ids: list[int] = []
    try:
        number = await store.cancel_jobs(
            selected, _collector(request, job_ids), kill_only=identity_of(request).kill_only
        )
    finally:
        audit.add_details(request, cancelled=len(job_ids), **audit_details.of_ids(job_ids))
    log.info("jobs were cancelled by a request", extra={"cancelled": number})
    cancelled: documents.Cancelled = {"cancelled": number}
    return await responses.no_store(request, 200, cancelled, {})


def _is_confirmed(request: web.Request) -> bool:
    confirmed = parameters.choice(request, "confirm", ("true", "false")) == "true"
    if not confirmed:
        audit.add_details(request, **audit_details.of_query(request.query))
    return confirmed


def _unconfirmed(detail: str, **counts: Any) -> HttpProblem:
    return HttpProblem("unconfirmed", f"{detail}: repeat it with confirm=true", parameter="confirm", **counts)


def _collector(request: web.Request, job_ids: list[int]) -> Callable[[Sequence[int]], None]:
    """Return what collects the ids of each batch, and ends the change once the token is revoked."""

    def collect(batch: Sequence[int]) -> None:
        job_ids.extend(batch)
        if not request.app[AUTHENTICATOR].is_still_valid(identity_of(request)):
            raise TokenNeeded(wrong=True)

    return collect
