"""The history: every accepted job exactly once, its state, its output, its end.

This is the contract that every back end keeps (`sqlite` is the first). It is spoken to by `web`, which adds,
reads, wishes and deletes, and by `supervisor`, which claims and finishes; it knows neither.

The rules, in prose:

- What a method returned is durable: the power may go the moment after.
- A job is claimed at most once per token, highest priority first, then oldest. `claim` waits until there is
  a job for it, and is served at the end of whatever write batch comes next, so that accepting a job and claiming
  it are one commit. A claim whose waiter was cancelled after the commit stays in the history as running; it is
  judged at the next reconciliation like any claim of which nothing was started.
- Every write about a running job carries its token; a write with another token changes nothing and says so.
- A cancel is a row: on a queued job it ends it at once, on a running one it is a wish that whoever owns the job
  acts on.
- Bells carry no data. A bell that rings says "look again"; it may ring too often, or once for many changes.
- An id is never given twice, even after its job was deleted.
- When the history cannot be written (`StoreUnavailable`), nothing of the call has happened.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from shellrunner.model import Claim, End, Job, JobSpec, Millis, State, Stream, Volume

__all__ = ["Bell", "Extent", "Head", "Output", "Store"]


class Bell(Protocol):
    """Says "look again". Watch first, then look, then wait: no change is missed."""

    async def wait(self) -> None:
        """Return once something may have changed since the last `wait` returned (or since the watch began)."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A piece of output as it arrived: `data` of one stream, its place, and when it was read from the pipe.

    `position` counts the bytes of both streams in arrival order, `offset` those of `stream` alone;
    `position + len(data)` is where the next extent begins.
    """

    position: int
    stream: Stream
    offset: int
    time: Millis
    data: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The first bytes of an output, and the index of all of it that fits, as they lay in the slot."""

    data: bytes = b""
    index: bytes = b""


class Output(Protocol):
    """What one job had written when this was asked for; reading it never blocks the job.

    Its figures are a snapshot: ask the store again for later ones. Bytes, once there, never change.
    """

    @property
    def volume(self) -> Volume:
        """Bytes stored and dropped so far."""

    async def read(self, position: int, limit: int) -> Sequence[Extent]:
        """Read at most `limit` bytes in arrival order from `position` on; empty at the end.

        An extent is cut at `position` and at `limit` where it must be. May return fewer bytes than `limit`
        before the end, but then at least one.
        """

    async def read_stream(self, stream: Stream, offset: int, limit: int) -> bytes:
        """Read at most `limit` bytes of one stream from its own `offset` on; empty only at its end."""

    async def offset_of(self, stream: Stream, position: int) -> int:
        """How many bytes of `stream` lie before `position` (at most `volume.stored`)."""


class Store(Protocol):
    """See the module's docstring for the rules. All methods may raise `StoreUnavailable`."""

    # What the web side says -----------------------------------------------------------------------------

    async def add(self, spec: JobSpec) -> Job:
        """Accept a job, durably."""

    async def job(self, job_id: int) -> Job:
        """Return the job.

        Raises:
            NoSuchJob: never accepted, or deleted.
        """

    async def jobs(self, *, states: frozenset[State], limit: int, before: int | None = None) -> Sequence[Job]:
        """Return up to `limit` jobs in these states, newest first, of those with an id below `before`."""

    async def results(self, *, limit: int, before: int | None = None) -> Sequence[Job]:
        """Return up to `limit` jobs that are done and whose result was not deleted, newest first."""

    async def output(self, job_id: int) -> Output:
        """Return what the job has written so far (empty before it started).

        Raises:
            NoSuchJob: never accepted, or deleted.
            ResultGone: the result was deleted.
        """

    async def wish_cancel(self, job_id: int) -> Job:
        """Ask for the job's end; a queued job is done (`cancelled`) with it. Idempotent while running.

        Raises:
            NoSuchJob: never accepted, or deleted.
            AlreadyDone: it is over.
        """

    async def delete_job(self, job_id: int) -> None:
        """Remove a job that is done, with its result and output.

        Raises:
            NoSuchJob: never accepted, or deleted.
            NotDone: cancel it first.
        """

    async def delete_result(self, job_id: int) -> None:
        """Remove the output and figures of a job that is done; the job stays.

        Raises:
            NoSuchJob: never accepted, or deleted.
            NoResultYet: it is not done.
            ResultGone: deleted before.
        """

    def watch(self, job_id: int) -> AbstractContextManager[Bell]:
        """Ring at every change of the job's state, and when its output has grown (at most 50 ms late)."""

    # What the supervisor says ----------------------------------------------------------------------------

    @property
    def history(self) -> str:
        """The history's random id (32 hex digits), which every slot carries."""

    async def claim(self, keeper: int, token: str) -> Claim:
        """Wait for a queued job and claim it for this keeper."""

    async def finish(self, job_id: int, token: str, end: End, volume: Volume, head: Head) -> bool:
        """Record the end; false if the job is not running under this token (any more)."""

    async def requeue(self, job_id: int, token: str) -> bool:
        """Put a claimed job of which nothing was started back; false if it is not running under this token.

        One whose end was asked for meanwhile is done (`cancelled`) instead.
        """

    async def running(self) -> Sequence[Claim]:
        """Return every running job with who has it, oldest first."""

    async def cancelling(self) -> Sequence[Claim]:
        """Return the running jobs whose end was asked for."""

    def watch_wishes(self) -> AbstractContextManager[Bell]:
        """Ring whenever a running job's end was asked for."""

    async def check(self) -> None:
        """Write something and read it back: the history is alive."""
