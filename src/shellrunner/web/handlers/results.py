"""Results: how jobs ended, with their output as text.

Handlers of /api/results, /api/results/{id} and .../attempts/{number}; `result_bytes` has the exact bytes.
"""

from collections.abc import Sequence
from functools import partial

from aiohttp import web

from shellrunner import results
from shellrunner.model import Stream
from shellrunner.results import EndedAttempt
from shellrunner.store import History
from shellrunner.store.pagination import ListedJob
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.handlers import lists
from shellrunner.web.handlers.row_cache import ROW_CACHE, RowKey
from shellrunner.web.http import responses
from shellrunner.web.security import audit
from shellrunner.wire import documents, json_codec, serialize
from shellrunner.wire.text import Excerpt


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/results/{id}, and .../attempts/{number}: return how the job ended, with its output as text."""
    if "number" in request.match_info:
        return await responses.ok(request, await _document(request))
    store, cache = request.app[STORE], request.app[ROW_CACHE]
    key = RowKey("result", await store.stored_job(job_id(request)))
    content = cache.get(key)
    if content is None:
        made = await results.last_document(store, key.job.whole_job())
        content = json_codec.dumps(made.document)
        if made.is_final:
            cache.put(key, content)
    return await responses.ok_bytes(request, content)


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/results: list results, the newest first unless sorted otherwise."""
    page = lists.PageRequest.parse(request, lists.RESULTS)
    rows = partial(_rows, request.app[STORE]) if page.includes("stdout", "stderr") else _rows_without_output
    return await page.respond(request, rows)


async def remove(request: web.Request) -> web.Response:
    """DELETE /api/results/{id}: delete the result of a job that is done; the job and its status stay."""
    if responses.has_preconditions(request):
        responses.check_preconditions(request, responses.etag(json_codec.dumps(await _document(request))))
    await audit.accept(request, job=job_id(request))
    await request.app[STORE].delete_result(job_id(request))
    return web.Response(status=204)


async def requested_attempt(request: web.Request) -> EndedAttempt:
    """Return the attempt that the path names or, if it names none, the last: its result is the job's.

    Raises:
        NoSuchJob: there is no such job.
        NoSuchAttempt: the job has no such attempt.
        NoResultYet: the attempt has not ended.
        ResultGone: the result was deleted.
    """
    store, number = request.app[STORE], request.match_info.get("number")
    job = await store.job(job_id(request))
    return results.last_attempt(job) if number is None else await results.ended_attempt(store, job, int(number))


async def _document(request: web.Request) -> documents.Result:
    return await results.document(request.app[STORE], await requested_attempt(request), results.MAX_BYTES)


async def _rows(store: History, jobs: Sequence[ListedJob]) -> list[lists.Row]:
    attempts = [results.last_attempt(listed.job()) for listed in jobs]
    return [lists.Row(*found) async for found in results.listed_documents(store, attempts)]


async def _rows_without_output(jobs: Sequence[ListedJob]) -> list[lists.Row]:
    """Return rows whose texts are not shown, without reading the output: they say what was recorded."""
    return [lists.Row(_without_output(results.last_attempt(listed.job())), is_final=True) for listed in jobs]


def _without_output(attempt: EndedAttempt) -> documents.Result:
    stdout, stderr = [
        Excerpt("", attempt.volume.stream_bytes(stream) > results.MAX_LISTED_BYTES) for stream in Stream
    ]
    return serialize.result(*attempt, stdout=stdout, stderr=stderr)
