"""The document of a job's result: how an attempt ended, with excerpts of its output.

Used by `web`, which serves results, and by `callbacks`, which sends them. Must not know HTTP.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple

from shellrunner.errors import NoResultYet, ResultGone
from shellrunner.model import AttemptHost, Done, End, Job, Stream, Volume
from shellrunner.store import History, Output, Results
from shellrunner.store.output.present import PresentBytes, without
from shellrunner.wire import documents, serialize, text
from shellrunner.wire.text import Excerpt

MAX_BYTES: Final = 1 << 20  # of each stream in a result; longer output is cut
MAX_LISTED_BYTES: Final = 1 << 12  # likewise, in lists and callbacks
_MAX_BATCH_BYTES: Final = 1 << 20  # of output that is read from the history at once
_NO_OUTPUT: Final = Excerpt("", truncated=False)


class EndedAttempt(NamedTuple):
    """An attempt that has ended, with its output still in the history."""

    job: Job
    number: int
    end: End
    volume: Volume
    host: AttemptHost


def last_attempt(job: Job) -> EndedAttempt:
    """Return the attempt whose result is the job's.

    Raises:
        NoResultYet: the job is not done.
        ResultGone: the result was deleted.
    """
    if not isinstance(job.phase, Done):
        raise NoResultYet(job.id)
    if job.phase.volume is None:
        raise ResultGone(job.id)
    return EndedAttempt(job, job.attempt, job.phase.end, job.phase.volume, AttemptHost(job.host, job.phase.found))


async def ended_attempt(store: Results, job: Job, number: int) -> EndedAttempt:
    """Return one of the job's attempts, possibly while the next one waits or runs.

    Raises:
        NoSuchJob: the job was deleted, or has no such attempt.
        NoResultYet: this attempt has not ended.
        ResultGone: the result was deleted.
    """
    done = await store.attempt(job.id, number)
    if done.volume is None:
        raise ResultGone(job.id)
    host = AttemptHost(job.host if number == job.attempt else done.host, done.found)
    return EndedAttempt(job, number, done.end, done.volume, host)


async def document(store: Results, attempt: EndedAttempt, max_bytes: int) -> documents.Result:
    """Return the document of a result; streams of more than `max_bytes` bytes are cut around a marker.

    What is missing in the files counts as dropped.

    Raises:
        NoSuchJob, ResultGone: deleted meanwhile.
    """
    if attempt.volume.stored == 0:  # nothing to read, and nothing that may be missing
        return serialize.result(*attempt, stdout=_NO_OUTPUT, stderr=_NO_OUTPUT)
    output = await store.output(attempt.job.id, attempt.number)
    return (await _document(attempt, output, max_bytes, thorough=True)).document


class MadeDocument(NamedTuple):
    """The document of a result.

    is_final: whether all of it is in the history itself. What is in files may be missing one day.
    """

    document: documents.Result
    is_final: bool


class ListedDocument(NamedTuple):
    """The document of a listed result; None if it was deleted meanwhile. See `MadeDocument`."""

    document: documents.Result | None
    is_final: bool


async def last_document(store: Results, job: Job) -> MadeDocument:
    """Return the document of the job's result, as `document` does.

    Raises:
        NoResultYet: the job is not done.
        NoSuchJob, ResultGone: deleted.
    """
    attempt = last_attempt(job)
    return await _document(attempt, await store.output(job.id, attempt.number), MAX_BYTES, thorough=True)


async def listed_documents(store: History, attempts: Sequence[EndedAttempt]) -> AsyncIterator[ListedDocument]:
    """Yield the documents of the last attempts of jobs, cut as in lists.

    What is missing in files counts as dropped as far as their sizes show it: a list must not read whole indexes.
    """
    for batch in _batches(attempts):
        outputs = await store.last_outputs([attempt.job.id for attempt in batch])
        for attempt in batch:
            output = outputs.get(attempt.job.id)
            if output is None:
                yield ListedDocument(None, is_final=False)
            else:
                listed = await _document(attempt, output, MAX_LISTED_BYTES, thorough=False)
                yield ListedDocument(listed.document, is_final=not output.has_files)


def _batches(attempts: Sequence[EndedAttempt]) -> Iterator[list[EndedAttempt]]:
    """Yield as many at a time as have a bounded amount of output."""
    batch: list[EndedAttempt] = []
    size = 0
    for attempt in attempts:
        if batch and size + attempt.volume.stored > _MAX_BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(attempt)
        size += attempt.volume.stored
    if batch:
        yield batch


async def _document(attempt: EndedAttempt, output: Output, max_bytes: int, *, thorough: bool) -> MadeDocument:
    charset = attempt.job.spec.encoding
    if (both := output.read_both(max_bytes)) is not None:
        stdout, stderr = (text.decode(data, charset) for data in both)
        return MadeDocument(serialize.result(*attempt, stdout=stdout, stderr=stderr), is_final=True)
    gaps = await output.gaps(thorough=thorough)
    stdout, stderr = [await _excerpt(PresentBytes(output, gaps, stream), charset, max_bytes) for stream in Stream]
    present = attempt._replace(volume=without(attempt.volume, gaps))
    return MadeDocument(serialize.result(*present, stdout=stdout, stderr=stderr), is_final=False)


async def read_whole(read: Callable[[int, int], Awaitable[bytes]], at: int, length: int) -> bytes:
    """Read exactly `length` bytes from `at` on (fewer only at the end) by a `read` that may return fewer."""
    pieces: list[bytes] = []
    while length > 0 and (piece := await read(at, length)):
        pieces.append(piece)
        at += len(piece)
        length -= len(piece)
    return b"".join(pieces)


async def _excerpt(present: PresentBytes, charset: str, max_bytes: int) -> Excerpt:
    if present.size <= max_bytes:
        return text.decode(await read_whole(present.read, 0, present.size), charset)
    half = max_bytes // 2
    head = await read_whole(present.read, 0, half)
    tail = await read_whole(present.read, present.size - half, half)
    return text.excerpt(head, tail, size=present.size, charset=charset)
