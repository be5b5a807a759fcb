"""Jobs: submit, look, list, cancel, remove.

Handlers of the routes under /api/jobs. Must not know how jobs are run.
"""

import logging

from aiohttp import web

from shellrunner import results
from shellrunner.access import command_rules, job_policy
from shellrunner.errors import NoSuchJob, ResultGone
from shellrunner.model import Job, Submitter
from shellrunner.web.app_keys import SETTINGS, STORE, identity_of, job_id
from shellrunner.web.handlers import idempotency, lists, prefer
from shellrunner.web.http import bodies, parameters, responses
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit
from shellrunner.wire import documents, json_codec, parse, serialize

log = logging.getLogger("shellrunner.web")


async def submit(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs: accept a job, durably."""
    app = request.app
    app[STREAMS].raise_if_closing()
    key, seconds = idempotency.asked(request), prefer.asked(request)
    content = await bodies.read_json(request)
    spec = parse.job_spec(content)
    job_policy.check(spec, app[SETTINGS])
    who = identity_of(request)
    command_rules.check_command(who, spec)
    by = Submitter(who.name, who.run_as)
    job = await app[STORE].add(spec, idempotency.of(request, key, content) if key is not None else None, by)
    audit.add_details(request, job=job.id, command=job.spec.command_line)
    headers = {"Location": serialize.status_path(job.id)}
    # The result is for those who may read it: to all others a preference is what RFC 7240 lets it be, passed over.
    if seconds is not None and "read" in who.scopes:
        return await _awaited(request, job, seconds, headers)
    return await responses.no_store(request, 202, serialize.job(job), headers)


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/jobs/{id}: the job as it was asked for, and where its status is."""
    return await responses.ok(request, serialize.job(await request.app[STORE].job(job_id(request))))


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/jobs: a page of jobs, the newest first unless sorted."""
    return await lists.Listing.asked(request, lists.JOBS).answer(request, _row)


async def cancel(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/{id}/cancel: ask for the job's end.

    It may be asked for again while it is under way: TERM to the command's process group, a grace, then KILL to all.
    """
    request.app[STREAMS].raise_if_closing()
    job = await request.app[STORE].request_cancel(job_id(request))
    return await responses.no_store(request, 202, serialize.status(job), {"Location": serialize.status_path(job.id)})


async def remove(request: web.Request) -> web.Response:
    """DELETE /api/jobs/{id}: remove a job that is done, with its status and result."""
    store, wanted = request.app[STORE], job_id(request)
    if responses.has_preconditions(request):
        responses.check_preconditions(
            request, responses.etag(json_codec.dumps(serialize.job(await store.job(wanted))))
        )
    await store.delete_job(wanted)
    return web.Response(status=204)


async def remove_many(request: web.Request) -> web.StreamResponse:
    """DELETE /api/jobs?…: all that are meant and done, in small steps.

    It goes on when the client goes. If the service stops meanwhile, some are deleted, and asking again does the rest.
    """
    request.app[STREAMS].raise_if_closing()
    responses.check_preconditions(request, "")  # a list has no version of its own, so none can be the right one
    store, meant = request.app[STORE], lists.filters(request)
    if parameters.choice(request, "confirm", ("true", "false")) != "true":
        would = await store.preview_delete(meant)
        raise HttpProblem(
            "unconfirmed",
            f"with confirm=true this deletes {would.deleted} jobs, and keeps {would.not_done} that are not done",
            parameter="confirm",
            deleted=would.deleted,
            kept=would.not_done,
        )
    deleted, kept = await store.delete_jobs(meant)
    log.info("jobs were deleted by a request", extra={"deleted": deleted, "kept": kept})
    removed: documents.Removed = {"deleted": deleted, "kept": kept}
    return await responses.no_store(request, 200, removed, {})


async def _row(job: Job) -> serialize.Document:
    return serialize.job(job)


async def _awaited(request: web.Request, job: Job, seconds: int, headers: dict[str, str]) -> web.StreamResponse:
    headers |= prefer.applied(seconds)
    try:
        job = await prefer.until_done(request, job, seconds)
        if job.done:
            result = await results.result(request.app[STORE], results.last(job), results.WHOLE)
            headers["Content-Location"] = serialize.result_path(job.id)
            return await responses.no_store(request, 200, result, headers)
    except (NoSuchJob, ResultGone):
        pass  # deleted as soon as it was done: it was accepted all the same, and that is what 202 says
    return await responses.no_store(request, 202, serialize.job(job), headers)
