"""A job's result as its document: how an attempt ended, with excerpts of what it wrote.

Made here once for all who tell results: `web` when it is asked, `callbacks` by itself. Must not know HTTP.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

from shellrunner.errors import NoResultYet, ResultGone
from shellrunner.model import Done, End, Job, Stream, Volume
from shellrunner.store import Output, Results
from shellrunner.wire import documents, serialize, text
from shellrunner.wire.text import Excerpt

WHOLE: Final = 1 << 20  # bytes of each stream that a result shows uncut
LISTED: Final = 1 << 12  # and in lists


class Attempt(NamedTuple):
    """An attempt that is over, and whose output is kept."""

    job: Job
    number: int
    end: End
    volume: Volume


def last(job: Job) -> Attempt:
    """The attempt whose result is the job's.

    Raises:
        NoResultYet: the job is not done.
        ResultGone: that was deleted.
    """
    if not isinstance(job.phase, Done):
        raise NoResultYet(job.id)
    if job.phase.volume is None:
        raise ResultGone(job.id)
    return Attempt(job, job.attempt, job.phase.end, job.phase.volume)


async def one(store: Results, job: Job, number: int) -> Attempt:
    """One of the job's attempts, also while the next one waits or runs.

    Raises:
        NoSuchJob: the job was deleted, or has no such attempt.
        NoResultYet: this attempt is not over.
        ResultGone: the result was deleted.
    """
    done = await store.attempt(job.id, number)
    if done.volume is None:
        raise ResultGone(job.id)
    return Attempt(job, number, done.end, done.volume)


async def result(store: Results, attempt: Attempt, most: int) -> documents.Result:
    """The document of a result; more than `most` bytes of a stream are cut around a marker.

    Raises:
        NoSuchJob, ResultGone: deleted meanwhile.
    """
    output, charset = await store.output(attempt.job.id, attempt.number), attempt.job.spec.encoding
    stdout, stderr = [await _excerpt(output, stream, attempt.volume, charset, most) for stream in Stream]
    return serialize.result(*attempt, stdout=stdout, stderr=stderr)


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


async def _excerpt(output: Output, stream: Stream, volume: Volume, charset: str, most: int) -> Excerpt:
    stored, read = size(volume, stream), partial(output.read_stream, stream)
    if stored <= most:
        return text.decode(await read_whole(read, 0, stored), charset)
    half = most // 2
    head = await read_whole(read, 0, half)
    tail = await read_whole(read, stored - half, half)
    return text.excerpt(head, tail, size=stored, charset=charset)
