"""Jobs: submit, show, list, cancel and delete.

Handlers of the routes under /api/jobs; `bulk` has those for many jobs. Must not know how jobs are run.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from aiohttp import web

from shellrunner import results
from shellrunner.access import submission
from shellrunner.errors import NoSuchJob, ResultGone, TokenNeeded
from shellrunner.model import Job, JobSpec
from shellrunner.model.names import MAX_BODY_BYTES
from shellrunner.store import IdempotencyKey
from shellrunner.store.pagination import ListedJob
from shellrunner.web.app_keys import SETTINGS, STORE, identity_of, job_id
from shellrunner.web.handlers import idempotency, lists, prefer, row_cache
from shellrunner.web.http import bodies, responses
from shellrunner.web.http.streaming import STREAMS
from shellrunner.web.security import audit, audit_details
from shellrunner.web.status_view import STATUS_VIEW
from shellrunner.wire import documents, json_codec, parse, serialize

_MAX_INLINE: Final = 1 << 18  # bytes; a larger batch is parsed on a thread, while others are served


async def submit(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs: submit a job.

    It is stored durably before the response is sent. With `Prefer: wait=N` the response waits for the result.
    """
    app = request.app
    app[STREAMS].raise_if_closing()
    key, seconds = idempotency.requested_key(request), prefer.requested_wait(request)
    document = json_codec.loads(await bodies.read_json(request))
    identity = identity_of(request)
    spec = submission.admit(identity, parse.job_spec(document), app[SETTINGS], app[STORE].queue_names)
    bound_key = idempotency.bound_key(request, key, document)
    await audit.accept_job(request, spec, identity.run_as)
    job = await app[STORE].add(spec, bound_key, identity.submitter)
    audit.add_details(request, job=job.id)
    headers = {"Location": serialize.status_path(job.id)}
    # The result is only for identities that may read it; for others the preference is ignored, as RFC 7240 allows.
    if seconds is not None and identity.sees_all:
        return await _respond_when_done(request, job, seconds, headers)
    return await responses.no_store(request, 202, serialize.job(job), headers)


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
    be repeated while the job is being cancelled.
    """
    request.app[STREAMS].raise_if_closing()
    kill_only = identity_of(request).kill_only
    await audit.accept(request, job=job_id(request), **({"signal": "SIGKILL"} if kill_only else {}))
    # Only marks a running job; the supervisor subscribes to such marks, and has the job's keeper end the command.
    job = await request.app[STORE].request_cancel(job_id(request), kill_only=kill_only)
    status = request.app[STATUS_VIEW].document(job)
    return await responses.no_store(request, 202, status, {"Location": serialize.status_path(job.id)})


async def remove(request: web.Request) -> web.Response:
    """DELETE /api/jobs/{id}: delete a job that is done, with its status and result."""
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
