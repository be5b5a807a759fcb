"""Results: how jobs ended, with what they wrote as text.

Handlers of /api/results and /api/results/{id}; `raw` has the exact bytes.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aiohttp import hdrs, web

from shellrunner.errors import NoResultYet, NoSuchJob, ResultGone
from shellrunner.model import Done, End, Job, State, Stream, Volume
from shellrunner.store import Output, Store
from shellrunner.web import answers
from shellrunner.web.keys import STORE, job_id
from shellrunner.web.parameters import Page
from shellrunner.wire import body, documents, resources, texts
from shellrunner.wire.texts import Excerpt

WHOLE: Final = 1 << 20  # bytes of each stream that a result shows uncut
LISTED: Final = 1 << 12  # and in lists


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/results/{id}."""
    return await answers.resource(request, await _document(request.app[STORE], job_id(request)))


async def index(request: web.Request) -> web.StreamResponse:
    """GET /api/results, newest first."""
    store, page = request.app[STORE], Page.asked(request)
    found = await store.results(limit=page.limit + 1, before=page.before) if State.DONE in page.states else []
    return await answers.resource(request, *await page.answer("results", found, partial(_listed, store)))


async def remove(request: web.Request) -> web.Response:
    """DELETE /api/results/{id}: the job stays."""
    store, wanted = request.app[STORE], job_id(request)
    if hdrs.IF_MATCH in request.headers:
        answers.check_version(request, answers.etag(body.dump(await _document(store, wanted))))
    await store.delete_result(wanted)
    return web.Response(status=204)


def ending(job: Job) -> tuple[End, Volume]:
    """How the job ended and how much it wrote.

    Raises:
        NoResultYet: it is not done.
        ResultGone: that was deleted.
    """
    if not isinstance(job.phase, Done):
        raise NoResultYet(job.id)
    if job.phase.volume is None:
        raise ResultGone(job.id)
    return job.phase.end, job.phase.volume


def size(volume: Volume, stream: Stream) -> int:
    """How many bytes of this stream are stored."""
    return volume.stdout_bytes if stream is Stream.STDOUT else volume.stderr_bytes


async def read_whole(read: Callable[[int, int], Awaitable[bytes]], at: int, length: int) -> bytes:
    """Read exactly `length` bytes from `at` on (fewer only at the end) with a `read` that may return fewer."""
    pieces: list[bytes] = []
    while length > 0 and (piece := await read(at, length)):
        pieces.append(piece)
        at += len(piece)
        length -= len(piece)
    return b"".join(pieces)


async def _document(store: Store, wanted: int) -> documents.Result:
    job = await store.job(wanted)
    return await _result(store, job, WHOLE)


async def _listed(store: Store, job: Job) -> documents.Result | None:
    try:
        return await _result(store, job, LISTED)
    except (NoSuchJob, ResultGone):
        return None  # deleted since the list was read


async def _result(store: Store, job: Job, most: int) -> documents.Result:
    end, volume = ending(job)
    output = await store.output(job.id)
    stdout, stderr = [await _excerpt(output, stream, volume, job.spec.encoding, most) for stream in Stream]
    return resources.result(job, end, volume, stdout, stderr)


async def _excerpt(output: Output, stream: Stream, volume: Volume, charset: str, most: int) -> Excerpt:
    stored, read = size(volume, stream), partial(output.read_stream, stream)
    if stored <= most:
        return texts.whole(await read_whole(read, 0, stored), charset)
    half = most // 2
    head = await read_whole(read, 0, half)
    tail = await read_whole(read, stored - half, half)
    return texts.cut(head, tail, size=stored, charset=charset)
