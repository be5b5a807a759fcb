"""Jobs: submit, look, list, cancel, remove.

Handlers of the routes under /api/jobs. Must not know how jobs are run.
"""

import asyncio
from typing import Final

from aiohttp import hdrs, web

from shellrunner.model import Job
from shellrunner.web import answers, guard
from shellrunner.web.keys import SETTINGS, STORE, job_id
from shellrunner.web.parameters import Page
from shellrunner.web.problems import Refused
from shellrunner.web.streams import STREAMS
from shellrunner.wire import body, requests, resources

BODY_TIME: Final = 10.0  # seconds in which a body must arrive


async def submit(request: web.Request) -> web.StreamResponse:
    """POST /api/jobs: accept a job, durably."""
    app = request.app
    app[STREAMS].check_open()
    if request.headers.get(hdrs.CONTENT_TYPE) != "application/json":
        _check_type(request)
    if hdrs.CONTENT_ENCODING in request.headers:
        _check_coding(request)
    content = await (request.read() if request.content.is_eof() else _arriving(request))
    job = await app[STORE].add(requests.job_spec(content, app[SETTINGS]))
    return await answers.once(request, 202, resources.job(job), {"Location": resources.status_link(job.id)})


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


def _check_type(request: web.Request) -> None:
    # A form of another site can send text/plain without asking, but not application/json.
    given = request.headers.get(hdrs.CONTENT_TYPE)
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise Refused(
            "unsupported-media-type",
            f"Content-Type must be application/json in UTF-8, not {given!r}" if given else "Content-Type is required",
            {"Accept-Post": "application/json"},
        )


def _check_coding(request: web.Request) -> None:
    # Before the body is read: aiohttp would unpack it.
    codings = ", ".join(request.headers.getall(hdrs.CONTENT_ENCODING))
    if codings.strip().lower() not in {"", "identity"}:
        raise guard.packed()


async def _arriving(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIME):
            return await request.read()
    except TimeoutError:
        raise Refused(
            "body-too-slow", f"the body did not arrive within {BODY_TIME:g} s", {"Connection": "close"}
        ) from None
