"""Jobs: submit, show, list, change, repeat, cancel and delete.

Handlers of the routes under /api/jobs; `bulk` has those for many jobs. Must not know how jobs are run.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from aiohttp import web

from shellrunner import results
from shellrunner.access import Identity, submission
from shellrunner.errors import AlreadyDone, AlreadyStarted, JobChanged, NoSuchJob, ResultGone, TokenNeeded
from shellrunner.model import Done, Job, JobSpec, Running
from shellrunner.model.names import MAX_BODY_BYTES
from shellrunner.store import IdempotencyKey, JobEdit
from shellrunner.store.pagination import ListedJob
from shellrunner.web.app_keys import SETTINGS, STORE, identity_of, job_id
from shellrunner.web.handlers import idempotency, lists, prefer, row_cache
from shellrunner.web.http import bodies, responses
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit, audit_details
from shellrunner.web.status_view import STATUS_VIEW
from shellrunner.wire import documents, json_codec, merge_patch, parse, serialize

_MAX_EDITS: Final = 10  # of one request, while others change the same job
_MAX_INLINE: Final = 1 << 18  # bytes; a larger batch is parsed on a thread, while others are served


async def submit(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs: submit a job.

    It is stored durably before the response is sent. With `Prefer: wait=N` the response waits for the result.
    """
    app, identity = request.app, identity_of(request)
    app[STREAMS].raise_if_closing()
    key, seconds = idempotency.requested_key(request), prefer.requested_wait(request)
    document = json_codec.loads(await bodies.read_json(request))
    spec = _admit(app, identity, parse.job_spec(document))
    bound_key = idempotency.bound_key(request, key, document)
    await audit.accept_job(request, spec, identity.run_as)
    job = await app[STORE].add(spec, bound_key, identity.submitter)
    return await _respond_accepted(request, identity, job, seconds)


async def again(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/{id}/again: submit a new job with the specification of an earlier one, for the same system user.

    A body is a merge patch (RFC 7396) of that specification. `after`, `start_at` and `held`, which say when the
    earlier job might start, are not repeated unless they are given. Values of variables and text for standard input
    are not kept: where the earlier job had any, they must be given again, or left out by null. So must
    text that a job may have had which was accepted before schema 6 of the history.
    """
    app, identity, number = request.app, identity_of(request), job_id(request)
    app[STREAMS].raise_if_closing()
    key, seconds = idempotency.requested_key(request), prefer.requested_wait(request)
    patch = json_codec.loads(await bodies.read_json(request)) if request.body_exists else {}
    earlier, is_input_known = await app[STORE].job(number), number > app[STORE].unknown_input_up_to
    spec = _admit(app, identity, merge_patch.repeated(earlier.spec, patch, is_input_known=is_input_known))
    bound_key = idempotency.bound_key(request, key, {"again_of": number, "patch": patch})
    # As the same user: a command that a confined token chose must not get the power of the user who repeats it.
    submitter = replace(identity.submitter, run_as=identity.run_as or earlier.run_as)
    await audit.accept_job(request, spec, submitter.run_as, again_of=number)
    job = await app[STORE].add(spec, bound_key, submitter, again_of=number)
    return await _respond_accepted(request, identity, job, seconds)


async def edit(request: web.Request) -> web.StreamResponse:
    """PATCH /api/jobs/{id}: change a job that has not started.

    The body is a merge patch (RFC 7396). A job that waits for its next attempt counts as not started. It is changed
    before it can be claimed, or not at all.
    """
    app, number = request.app, job_id(request)
    app[STREAMS].raise_if_closing()
    patch = json_codec.loads(await bodies.read_json(request, bodies.MERGE_PATCH))
    for _ in range(_MAX_EDITS):
        change = await _requested_edit(request, patch)
        # A line for each try: what changes nothing in one may do so in the next.
        await audit.accept(request, job=number, **audit_details.of_edit(change.before, change.after))
        with suppress(JobChanged):  # two requests may have different keys: apply this one to what the other has made
            job = await app[STORE].edit_job(change)
            return await responses.no_store(request, 200, serialize.job(job), {})
    raise JobChanged(number)


async def _requested_edit(request: web.Request, patch: Any) -> JobEdit:
    """Return what a merge patch makes of the job as it is now, if its preconditions are met."""
    job = await request.app[STORE].job(job_id(request))
    if responses.has_preconditions(request):
        responses.check_preconditions(request, responses.etag(json_codec.dumps(serialize.job(job))))
    if isinstance(job.phase, Running | Done):  # also if the patch is not valid, as nothing helps then
        raise AlreadyDone(job.id) if job.done else AlreadyStarted(job.id)
    identity, patched = identity_of(request), merge_patch.patched(job.spec, patch)
    # It may stay in its queue, which config may not name any more.
    spec = _admit(request.app, identity, patched, present_queue=job.spec.queue)
    return JobEdit(job.id, job.spec, spec, identity.submitter)


def _admit(app: web.Application, identity: Identity, spec: JobSpec, *, present_queue: str | None = None) -> JobSpec:
    queues = app[STORE].queue_names
    if present_queue is not None and present_queue not in queues:
        queues = (*queues, present_queue)
    return submission.admit(identity, spec, app[SETTINGS], queues)


def _respond_accepted(
    request: web.Request, identity: Identity, job: Job, seconds: int | None
) -> Awaitable[web.StreamResponse]:
    audit.add_details(request, job=job.id)
    headers = {"Location": serialize.status_path(job.id)}
    # The result is only for identities that may read it; for others the preference is ignored, as RFC 7240 allows.
    if seconds is not None and identity.sees_all:
        return _respond_when_done(request, job, seconds, headers)
    return responses.no_store(request, 202, serialize.job(job), headers)


async def submit_many(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/batch: submit many jobs, all or none.

    They are stored durably, in one commit, before the response is sent; it lists them in the order of the request.
    Errors point to the jobs that have them (`#/jobs/3/timeout`). A body has at most 8 MiB, and no job in it more than
    1 MiB. The Idempotency-Key stands for all of them. `Prefer: wait` is ignored.
    """
    app = request.app
    app[STREAMS].raise_if_closing()
    key = idempotency.requested_key(request)
    content = await bodies.read_json(request)
    admit = partial(_admit_batch, request, content, key)
    specs, bound_key, line = admit() if len(content) <= _MAX_INLINE else await asyncio.to_thread(admit)
    await audit.accept(request, **line)
    accepted = await app[STORE].add_many(specs, bound_key, identity_of(request).submitter)
    audit.add_details(request, **audit_details.of_ids(job.id for job in accepted))
    submitted: documents.SubmittedJobs = {"jobs": [serialize.job(job) for job in accepted]}
    return await responses.no_store(request, 202, submitted, {})


def _admit_batch(
    request: web.Request, content: bytes, key: str | None
) -> tuple[list[JobSpec], IdempotencyKey | None, audit_details.Details]:
    """Return the jobs of a batch, its key, and what the audit log says of it."""
    identity = identity_of(request)
    document = json_codec.loads(content)
    specs = parse.job_specs(document, is_large=len(content) > MAX_BODY_BYTES)
    admitted = submission.admit_all(identity, specs, request.app[SETTINGS], request.app[STORE].queue_names)
    line = audit_details.of_jobs(admitted, identity.run_as, request.app[SETTINGS].audit.command_characters)
    return admitted, idempotency.bound_key(request, key, document), line


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/jobs/{id}: return the job as it was submitted, without secrets."""
    stored = await request.app[STORE].stored_job(job_id(request))
    content = row_cache.document(request, "job", stored, lambda: serialize.job(stored.whole_job()))
    return await responses.ok_bytes(request, content)


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/jobs: list jobs, the newest first unless sorted otherwise."""
    return await lists.PageRequest.parse(request, lists.JOBS).respond(request, _rows)


async def cancel(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/{id}/cancel: cancel a job.

    A waiting or queued job ends at once. A running command and everything that it started get SIGTERM and, after a
    grace period, SIGKILL; where a token with `commands` submitted it, or cancels it, SIGKILL at once. The request may
    be repeated while the job is being cancelled. So may that of a job that is `lost` and whose host, which was not
    reachable, may still run it: the host ends the command, and its result says so (`found`).
    """
    request.app[STREAMS].raise_if_closing()
    kill_only = identity_of(request).kill_only
    await audit.accept(request, job=job_id(request), **({"signal": "SIGKILL"} if kill_only else {}))
    # Only marks a running job; the supervisor subscribes to such marks, and has the job's keeper end the command.
    job = await request.app[STORE].request_cancel(job_id(request), kill_only=kill_only)
    status = request.app[STATUS_VIEW].document(job)
    return await responses.no_store(request, 202, status, {"Location": serialize.status_path(job.id)})


async def remove(request: web.Request) -> web.Response:
    """DELETE /api/jobs/{id}: delete a job that is done, with its status and result.

    If it is `lost` and its host may still run it, its command is ended by SIGKILL.
    """
    store, number = request.app[STORE], job_id(request)
    if responses.has_preconditions(request):
        responses.check_preconditions(
            request, responses.etag(json_codec.dumps(serialize.job(await store.job(number))))
        )
    await audit.accept(request, job=number)
    await store.delete_job(number)
    return web.Response(status=204)


async def _rows(jobs: Sequence[ListedJob]) -> list[lists.Row]:
    return [lists.Row(serialize.job(listed.job()), is_final=True) for listed in jobs]


async def _respond_when_done(
    request: web.Request, job: Job, seconds: int, headers: dict[str, str]
) -> web.StreamResponse:
    headers |= prefer.applied_header(seconds)
    try:
        job = await prefer.wait_until_done(request, job, seconds)
        if job.done:
            result = await results.document(request.app[STORE], results.last_attempt(job), results.MAX_BYTES)
            headers["Content-Location"] = serialize.result_path(job.id)
            return await responses.no_store(request, 200, result, headers)
    except (NoSuchJob, ResultGone, TokenNeeded):
        pass  # deleted as soon as it was done, or no longer the client's to see; 202 still says that it was accepted
    return await responses.no_store(request, 202, serialize.job(job), headers)
