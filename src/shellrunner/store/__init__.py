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
- A job that has to wait (for `after`, `start_at`, a retry's delay) is queued by the history itself once it may start,
  or `skipped` once it may not any more; nobody has to ask for that.
- A queue never has more running than its limit, and a paused one starts nothing; both hold over restarts.
- An Idempotency-Key and its job are one commit; so are an end and what follows from it (the next attempt, jobs that
  waited for it, a callback that is due).
- A list looks at a bounded number of rows, however long the history is: where too few of those it looked at are
  wanted, a page holds fewer than asked for (even none) and still says where the next begins.
- An id is never given twice, even after its job was deleted.
- When the history cannot be written (`StoreUnavailable`), nothing of the call has happened.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shellrunner.clock import Millis
from shellrunner.model import Claim, Done, End, Job, JobSpec, Session, Submitter, Volume
from shellrunner.store.filters import Filters, Page, Position, Sort
from shellrunner.store.output import Extent, Head, Output

__all__ = [
    "ChangeLog",
    "DeleteCount",
    "DueCallback",
    "Extent",
    "Filters",
    "Head",
    "Key",
    "Output",
    "Page",
    "Position",
    "QueueOverview",
    "QueueState",
    "Sort",
    "Store",
    "Subscription",
]


class Subscription(Protocol):
    """Says "look again". Watch first, then look, then wait: no change is missed."""

    async def wait(self) -> None:
        """Return once something may have changed since the last `wait` returned (or since the watch began)."""


@dataclass(frozen=True, slots=True)
class Key:
    """An Idempotency-Key: whose it is, and a digest of the body that came with it."""

    identity: str
    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue: how many of its jobs may run (None: no limit of its own), and how many stand where.

    `oldest` is when the oldest of its queued jobs was accepted.
    """

    name: str
    limit: int | None
    paused: bool
    running: int
    queued: int
    waiting: int
    oldest: Millis | None


@dataclass(frozen=True, slots=True)
class QueueOverview:
    """All queues, by name; `paused` when the whole service is, queues that are yet to come too."""

    paused: bool
    queues: Sequence[QueueState]


class DeleteCount(NamedTuple):
    """So many jobs were deleted; so many more were meant, but are not done."""

    deleted: int
    kept: int


@dataclass(frozen=True, slots=True)
class DueCallback:
    """A result that is to be sent now: so often tried in vain, and since when it is due at all."""

    job: Job
    tries: int
    since: Millis


class ChangeLog(Protocol):
    """Which jobs changed in which order, since the opening: a bounded memory of the latest changes."""

    @property
    def era(self) -> str:
        """What tells this opening's counting from any other's."""

    @property
    def last(self) -> int:
        """How many changes there were."""

    def since(self, number: int) -> "Sequence[tuple[int, int]] | None":
        """The jobs that changed after change `number`, each once with its latest change, as (change, job id) in
        order; None if that is further back than is remembered."""


class Store(Protocol):
    """See the module's docstring for the rules. All methods may raise `StoreUnavailable`."""

    # What the web side says -----------------------------------------------------------------------------

    async def add(self, spec: JobSpec, key: Key | None = None, by: Submitter | None = None) -> Job:
        """Accept a job, durably; or return the one that was accepted with this key before, as it is now.

        Raises:
            QueueFull: too many jobs wait already.
            InvalidJob: there is no job that `after` names.
            KeyReused: the key came with another body.
            JobGone: the job of this key was deleted since.
        """

    async def job(self, job_id: int) -> Job:
        """Return the job.

        Raises:
            NoSuchJob: never accepted, or deleted.
        """

    async def some(self, job_ids: Iterable[int]) -> Sequence[Job]:
        """Return those of these jobs that there are."""

    async def page(self, filters: Filters, sort: Sort, *, limit: int, after: Position | None = None) -> Page:
        """Return up to `limit` jobs in order, of those behind `after`; see the rules for pages that hold fewer."""

    async def count(self, filters: Filters) -> DeleteCount:
        """Say what `delete_jobs` would do now."""

    async def delete_jobs(self, filters: Filters) -> DeleteCount:
        """Delete every job that is meant, was accepted before this call and is done, in small steps."""

    async def attempt(self, job_id: int, number: int) -> Done:
        """Return how one attempt of the job ended; `volume` is what it alone wrote.

        Raises:
            NoSuchJob: never accepted, or deleted; or it has no such attempt.
            NoResultYet: this attempt is not over.
            ResultGone: the result was deleted.
        """

    async def output(self, job_id: int, attempt: int | None = None) -> Output:
        """Return what the job has written so far (empty before it started): all attempts in one, or one of them.

        Raises:
            NoSuchJob: never accepted, or deleted; or it has no such attempt.
            ResultGone: the result was deleted.
        """

    async def request_cancel(self, job_id: int) -> Job:
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

    def watch(self, job_id: int) -> AbstractContextManager[Subscription]:
        """Ring at every change of the job's state, and when its output has grown (at most 50 ms late)."""

    def watch_changes(self) -> AbstractContextManager[Subscription]:
        """Ring at every change of any job's state, and at every deletion."""

    @property
    def changes(self) -> ChangeLog:
        """Which jobs changed, and in which order."""

    async def queues(self) -> QueueOverview:
        """Return every queue: those that config names, and those of jobs that are not done."""

    async def pause(self, queue: str | None, *, paused: bool) -> QueueOverview:
        """Let a queue (None: all of them) start nothing, or start again.

        Raises:
            NoSuchQueue: there is none of this name.
        """

    # What the door says -----------------------------------------------------------------------------------

    async def sessions(self) -> Sequence[Session]:
        """Return every session that was begun and not ended, the oldest first; some may be over by now."""

    async def change_sessions(self, begun: Sequence[Session], ended: Collection[bytes]) -> None:
        """Begin some and end others, which are named by their digests, in one commit."""

    # What the caller of callbacks says ------------------------------------------------------------------------

    async def due_callbacks(self, limit: int, passing_over: Collection[str] = ()) -> Sequence[DueCallback]:
        """Return up to `limit` results that are to be sent now, the longest due first, but none to these hosts."""

    async def next_callback(self) -> Millis | None:
        """Return when the next result is to be sent, if any is."""

    async def called_back(self, job_id: int, *, error: str | None, retry_at: Millis | None) -> None:
        """Record a try: delivered without `error`, else tried again at `retry_at`, else failed for good."""

    def watch_callbacks(self) -> AbstractContextManager[Subscription]:
        """Ring whenever a result has come to be sent."""

    # What the supervisor says ----------------------------------------------------------------------------

    @property
    def history(self) -> str:
        """The history's random id (32 hex digits), which every slot carries."""

    async def claim(self, keeper: int, token: str) -> Claim:
        """Wait for a queued job and claim it for this keeper."""

    async def finish(
        self, job_id: int, token: str, end: End, volume: Volume, head: Head, *, next_attempt_at: Millis | None = None
    ) -> bool:
        """Record the end; false if the job is not running under this token (any more).

        With `next_attempt_at`, another attempt follows at that time, unless the job's end was asked for.
        """

    async def requeue(self, job_id: int, token: str) -> bool:
        """Put a claimed job of which nothing was started back; false if it is not running under this token.

        One whose end was asked for meanwhile is done (`cancelled`) instead.
        """

    async def running(self) -> Sequence[Claim]:
        """Return every running job with who has it, oldest first."""

    async def cancelling(self) -> Sequence[Claim]:
        """Return the running jobs whose end was asked for."""

    def watch_cancel_requests(self) -> AbstractContextManager[Subscription]:
        """Ring whenever a running job's end was asked for."""

    async def check(self) -> None:
        """Write something and read it back: the history is alive."""
