"""Results: how jobs ended, with what they wrote as text.

Handlers of /api/results, /api/results/{id} and .../attempts/{number}; `raw` has the exact bytes.
"""

from functools import partial

from aiohttp import web

from shellrunner import results
from shellrunner.errors import NoSuchJob, ResultGone
from shellrunner.model import Job, Stream
from shellrunner.results import Attempt
from shellrunner.store import Results
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.handlers import lists
from shellrunner.web.http import responses
from shellrunner.wire import documents, json_codec, serialize
from shellrunner.wire.text import Excerpt


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/results/{id}, and .../attempts/{number}: how it ended, with what it wrote as text."""
    return await responses.ok(request, await _document(request))


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/results: a page of results, the newest first unless sorted."""
    listing = lists.Listing.asked(request, lists.RESULTS)
    row = partial(_listed, request.app[STORE]) if listing.shows("stdout", "stderr") else _figures
    return await listing.answer(request, row)


async def remove(request: web.Request) -> web.Response:
    """DELETE /api/results/{id}: remove the result of a job that is done; the job stays."""
    if responses.has_preconditions(request):
        responses.check_preconditions(request, responses.etag(json_codec.dumps(await _document(request))))
    await request.app[STORE].delete_result(job_id(request))
    return web.Response(status=204)


async def asked(request: web.Request) -> Attempt:
    """The attempt that the path names, else the last: its result is the job's.

    Raises:
        NoSuchJob, NoResultYet, ResultGone: there is none to be had.
    """
    store, number = request.app[STORE], request.match_info.get("number")
    job = await store.job(job_id(request))
    return results.last(job) if number is None else await results.one(store, job, int(number))


async def _document(request: web.Request) -> documents.Result:
    return await results.result(request.app[STORE], await asked(request), results.WHOLE)


async def _listed(store: Results, job: Job) -> documents.Result | None:
    try:
        return await results.result(store, results.last(job), results.LISTED)
    except (NoSuchJob, ResultGone):
        return None  # deleted since the list was read


async def _figures(job: Job) -> documents.Result:
    """A row of which nothing that was written is shown, so that is not read."""
    attempt = results.last(job)
    stdout, stderr = [Excerpt("", results.size(attempt.volume, stream) > results.LISTED) for stream in Stream]
    return serialize.result(*attempt, stdout=stdout, stderr=stderr)
