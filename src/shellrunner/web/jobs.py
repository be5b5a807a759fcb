"""Jobs: submit, look, list, cancel, remove.

Handlers of the routes under /api/jobs. Must not know how jobs are run.
"""

from aiohttp import hdrs, web

from shellrunner import reports
from shellrunner.errors import NoSuchJob, ResultGone
from shellrunner.model import Job
from shellrunner.web import answers, bodies, idempotency, waits
from shellrunner.web.keys import SETTINGS, STORE, job_id
from shellrunner.web.parameters import Page
from shellrunner.web.streams import STREAMS
from shellrunner.wire import body, requests, resources


async def submit(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs: accept a job, durably."""
    app = request.app
    app[STREAMS].check_open()
    key, seconds = idempotency.asked(request), waits.asked(request)
    content = await bodies.json(request)
    spec = requests.job_spec(content, app[SETTINGS])
    job = await app[STORE].add(spec, idempotency.of(key, content) if key is not None else None)
    headers = {"Location": resources.status_link(job.id)}
    if seconds is not None:
        return await _awaited(request, job, seconds, headers)
    return await answers.once(request, 202, resources.job(job), headers)


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/jobs/{id}."""
    return await answers.resource(request, resources.job(await request.app[STORE].job(job_id(request))))


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/jobs, newest first."""
    page = Page.asked(request)
    found = await request.app[STORE].jobs(states=page.states, limit=page.limit + 1, before=page.before)
    return await answers.resource(request, *await page.answer("jobs", found, _row))


async def cancel(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs/{id}/cancel: ask for its end."""
    request.app[STREAMS].check_open()
    job = await request.app[STORE].wish_cancel(job_id(request))
    return await answers.once(request, 202, resources.status(job), {"Location": resources.status_link(job.id)})


async def remove(request: web.Request) -> web.Response:
    """DELETE /api/jobs/{id}: its status and result go with it."""
    store, wanted = request.app[STORE], job_id(request)
    if hdrs.IF_MATCH in request.headers:
        answers.check_version(request, answers.etag(body.dump(resources.job(await store.job(wanted)))))
    await store.delete_job(wanted)
    return web.Response(status=204)


async def _row(job: Job) -> resources.Document:
    return resources.job(job)


async def _awaited(request: web.Request, job: Job, seconds: int, headers: dict[str, str]) -> web.StreamResponse:
    headers |= waits.applied(seconds)
    try:
        job = await waits.until_done(request, job, seconds)
        if job.done:
            result = await reports.result(request.app[STORE], reports.last(job), reports.WHOLE)
            return await answers.once(request, 200, result, {**headers, "Content-Location": f"/api/results/{job.id}"})
    except (NoSuchJob, ResultGone):
        pass  # deleted as soon as it was done: it was accepted all the same, and that is what 202 says
    return await answers.once(request, 202, resources.job(job), headers)
