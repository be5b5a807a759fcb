"""The document of a job's result: how an attempt ended, with excerpts of its output.

Used by `web`, which serves results, and by `callbacks`, which sends them. Must not know HTTP.
"""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from shellrunner.errors import NoResultYet, ResultGone
from shellrunner.model import Done, End, Job, Stream, Volume
from shellrunner.store import Results
from shellrunner.store.output.present import PresentBytes, without
from shellrunner.wire import documents, serialize, text
from shellrunner.wire.text import Excerpt

MAX_BYTES: Final = 1 << 20  # of each stream in a result; longer output is cut
MAX_LISTED_BYTES: Final = 1 << 12  # likewise, in lists and callbacks


class EndedAttempt(NamedTuple):
    """An attempt that has ended, with its output still in the history."""

    job: Job
    number: int
    end: End
    volume: Volume


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
    return EndedAttempt(job, job.attempt, job.phase.end, job.phase.volume)


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
    return EndedAttempt(job, number, done.end, done.volume)


async def document(
    store: Results, attempt: EndedAttempt, max_bytes: int, *, thorough: bool = True
) -> documents.Result:
    """Return the document of a result; streams of more than `max_bytes` bytes are cut around a marker.

    What is missing in the files counts as dropped; not `thorough`, as in lists: as far as their sizes show it.

    Raises:
        NoSuchJob, ResultGone: deleted meanwhile.
    """
    output, charset = await store.output(attempt.job.id, attempt.number), attempt.job.spec.encoding
    gaps = await output.gaps(thorough=thorough)
    stdout, stderr = [await _excerpt(PresentBytes(output, gaps, stream), charset, max_bytes) for stream in Stream]
    present = attempt._replace(volume=without(attempt.volume, gaps))
    return serialize.result(*present, stdout=stdout, stderr=stderr)


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
