"""The history: every accepted job exactly once, with its state, its output and its ending.

This is the contract that every back end keeps (`sqlite` is the first). Each consumer sees the protocol that it needs:
`web` reads and changes the `History`, the supervisor claims and finishes `Work`, `callbacks` sends results
(`Callbacks`), `access` keeps `Sessions`, and `metrics` reads `HistoryFigures`. The contract must not know
any of them, nor SQL.

Rules:

- Durability: what a method returned survives a power failure at any later moment.
- Claims: a job is claimed at most once per claim token, the highest priority first, then the oldest. `claim` waits
  until there is a job for it, and is served at the end of the next write batch, so that accepting a job and claiming
  it are one commit. If the caller of `claim` is cancelled after the commit, the job stays running in the history; the
  next reconciliation judges it like any claim of which nothing was started.
- Claim tokens: every write about a running job carries its claim's token. A write with another token changes nothing
  and returns false.
- Cancellation is stored: cancelling a waiting or queued job ends it at once; at a running job it is a request, which
  the owner of the job acts on.
- Notifications carry no data. They mean "read again"; they may be spurious, and one may stand for many changes.
- Waiting: a job that has to wait (for `after`, for `start_at`, for the delay of a retry) is queued by the history
  itself as soon as it may start, or ends as `skipped` as soon as it no longer can. Nobody has to ask for that.
- Queues: a queue never starts a job while as many of it run as its limit allows, and a paused queue starts none.
  Both hold across restarts, and so do limits that were set, and queues that were made, at run time.
- Submitters: one that has a limit never has more running jobs than that, in all queues together, and its other jobs
  hold up nobody's. So too across restarts.
- Atomicity: an Idempotency-Key and its job are one commit. So are an ending and its consequences (the next attempt,
  dependent jobs, a callback that is due).
- Bounded lists: a list reads a bounded number of rows, however long the history is. If too few of the rows match, a
  page has fewer jobs than its limit (possibly no jobs at all) and still says where the next page begins.
- Ids are never reused, not even after a job was deleted, or the history restored from a backup or removed.
- Identity: a history that was copied, or restored from a backup, is held from its opening on: what it calls running
  is done (`lost`); no job is claimed, no callback is due and nothing is removed by retention until
  `pause(None, paused=False)`.
- Failure: when the history cannot be written (`StoreUnavailable`), nothing of the call has happened, nor will it be
  found after a crash. Where that is not certain, the error says so (`OutcomeUnknown`).
- Secrets: values of the environment and standard input are written sealed only, with a key of the job's own, which is
  synced before the job is accepted and destroyed once it has ended for good. A job whose key is missing or damaged
  ends as `failed_to_start`; it never starts with other values. Only a claim has them; a backup has no keys.
- Files: nothing is committed to a history that is no longer at its path.
- Ages are measured in time that was seen to pass (`seen_time`): a clock that is set deletes nothing. Delays (of a
  retry, of a callback) are kept when the clock is set; `start_at` is a time of the wall clock.
- A full disk (`NoSpace`): only what frees space or records an end is written, until enough is free.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from shellrunner.clock import Millis
from shellrunner.errors import ShellrunnerError
from shellrunner.model import (
    Claim,
    Delivery,
    Done,
    End,
    Ending,
    Job,
    JobSpec,
    Pending,
    Queued,
    Session,
    Submitter,
    Volume,
)
from shellrunner.model.filters import Filters
from shellrunner.store.change_log import ChangeLog
from shellrunner.store.hosts import Host, HostOrders
from shellrunner.store.notifications import Subscription
from shellrunner.store.output import EndedOutput, Extent, Head, Output
from shellrunner.store.pagination import ListedJob, Page, Position, Sort
from shellrunner.store.queues import Hold, Pauses, QueueLimit, QueueLimits, QueueOverview, QueueState, SubmitterLimit
from shellrunner.store.values import (
    ClusterFigures,
    DeleteCount,
    DueCallback,
    HistoryIdentity,
    HistorySize,
    IdempotencyKey,
    JobEdit,
    Retention,
    SlotClaim,
)

__all__ = [
    "Callbacks",
    "ChangeLog",
    "ClusterFigures",
    "DeleteCount",
    "DueCallback",
    "Extent",
    "Filters",
    "Head",
    "History",
    "HistoryFigures",
    "HistoryIdentity",
    "HistorySize",
    "Hold",
    "Host",
    "Hosts",
    "IdempotencyKey",
    "JobEdit",
    "Output",
    "Page",
    "Pauses",
    "Position",
    "QueueLimit",
    "QueueLimits",
    "QueueOverview",
    "QueueState",
    "Results",
    "Retention",
    "Sessions",
    "SlotClaim",
    "Sort",
    "Store",
    "SubmitterLimit",
    "Subscription",
    "Work",
]


class Results(Protocol):
    """Endings and output of jobs. May raise `StoreUnavailable`."""

    async def attempt(self, job_id: int, number: int) -> Done:
        """Return how one attempt of the job ended; `volume` is what this attempt alone wrote.

        Raises:
            NoSuchJob: never accepted, or deleted; or it has no such attempt.
            NoResultYet: this attempt is not over.
            ResultGone: the result was deleted.
        """

    async def output(self, job_id: int, attempt: int | None = None) -> Output:
        """Return what the job has written so far (empty before it started): all attempts joined, or one of them.

        Raises:
            NoSuchJob: never accepted, or deleted; or it has no such attempt.
            ResultGone: the result was deleted.
        """


class History(Results, Protocol):
    """Jobs as clients see them: accept, read, cancel, delete, watch. May raise `StoreUnavailable`."""

    @property
    def history_id(self) -> str:
        """The random id of this history (32 hex digits)."""

    @property
    def held(self) -> Hold | None:
        """Why nothing is started, sent or removed, if the history is held."""

    @property
    def unknown_input_up_to(self) -> int:
        """The newest job of which it is not known whether it had text for standard input; 0: there is none.

        Schemas before 6 left nothing of it in the rows of jobs that are done.
        """

    async def add(
        self,
        spec: JobSpec,
        key: IdempotencyKey | None = None,
        by: Submitter | None = None,
        *,
        again_of: int | None = None,
    ) -> Job:
        """Accept a job durably; or return the job that was accepted with this key before, as it is now.

        `again_of`: the job whose specification it repeats.

        Raises:
            QueueFull, TooManyQueuedJobs: too many jobs wait already, in all or of this submitter.
            InvalidJob: `after` names a job that does not exist, or that `by` may not see.
            KeyReused: the key was used with another body.
            JobGone: the job of this key was deleted.
        """

    async def add_many(
        self, specs: Sequence[JobSpec], key: IdempotencyKey | None = None, by: Submitter | None = None
    ) -> Sequence[Job]:
        """Accept jobs durably, in one commit: all, in their order, or none. The key stands for all of them.

        The key must have come with a digest of all specs: of another batch it is `KeyReused`.

        Raises:
            QueueFull, TooManyQueuedJobs: too many jobs wait already, so that not all of these may.
            InvalidJobs: `after` of some names jobs that do not exist, or that `by` may not see.
            KeyReused: the key was used with another body.
            JobGone: one of the jobs of this key was deleted.
        """

    def why_queued(self, queued: Queued) -> Pending:
        """Return why a queued job does not start at once; other jobs of its queue may be before it."""

    async def edit_job(self, edit: JobEdit) -> Job:
        """Change a job that has not started; return it. What it waits for follows from its new specification.

        Its command, variables and input stay as they are.

        Raises:
            NoSuchJob: never accepted, or deleted.
            AlreadyStarted, AlreadyDone: it runs, or is done.
            JobChanged: its specification is another one by now, so it has to be read again.
            QueueFull: it was to be moved to a queue in which too many jobs wait.
            InvalidJob: it cannot wait for one of the jobs that were added, or that may not be seen.
        """

    async def job(self, job_id: int) -> Job:
        """Return the job.

        Raises:
            NoSuchJob: never accepted, or deleted.
        """

    async def stored_job(self, job_id: int) -> ListedJob:
        """Return the job as it is stored, which is the same as long as the job does not change.

        Raises:
            NoSuchJob: never accepted, or deleted.
        """

    async def submitter(self, job_id: int) -> tuple[str | None, str | None]:
        """Return which identity submitted the job (None: not recorded), and the user that it runs as.

        Raises:
            NoSuchJob: never accepted, or deleted.
        """

    async def jobs(self, job_ids: Iterable[int]) -> Sequence[Job]:
        """Return those of these jobs that exist."""

    async def page(
        self, filters: Filters, sort: Sort, *, limit: int, after: Position | None = None, with_spec: bool = True
    ) -> Page:
        """Return up to `limit` matching jobs behind `after`, in order. A page may hold fewer: see "Bounded lists".

        Without `with_spec` only their statuses can be asked for.
        """

    async def last_outputs(self, job_ids: Sequence[int]) -> Mapping[int, EndedOutput]:
        """Return what the last attempts of these jobs wrote, of those that are done and whose result is there."""

    async def preview_delete(self, filters: Filters) -> DeleteCount:
        """Return what `delete_jobs` would do now."""

    async def delete_jobs(
        self, filters: Filters, on_deleted: Callable[[Sequence[int]], object] = tuple
    ) -> DeleteCount:
        """Delete every matching job that was accepted before this call and is done, in small steps.

        After each step `on_deleted` is called with the ids of the jobs that it has deleted.
        """

    async def preview_cancel(self, filters: Filters) -> int:
        """Return how many jobs `cancel_jobs` would cancel now."""

    async def cancel_jobs(
        self,
        filters: Filters,
        on_cancelled: Callable[[Sequence[int]], object] = tuple,
        *,
        kill_only: bool = False,
    ) -> int:
        """Request the end of every matching job that was accepted before this call and is not done, in small steps.

        Those that have not started come first, so that none of them starts in the place of a running one. After each
        step `on_cancelled` is called with the ids of its jobs. Return how many there were; `kill_only`: see
        `request_cancel`.
        """

    async def request_cancel(self, job_id: int, *, kill_only: bool = False) -> Job:
        """Request the end of the job; one that has not started is done (`cancelled`) at once. Idempotent.

        With `kill_only` a running command is ended by KILL, without TERM and grace. That of a `lost` job is ended if
        another host may still run it; the job stays as it is.

        Raises:
            NoSuchJob: never accepted, or deleted.
            AlreadyDone: it is done, and not in this way.
        """

    async def delete_job(self, job_id: int) -> None:
        """Delete a job that is done, with its result and output; end its command if it is lost and still runs.

        Raises:
            NoSuchJob: never accepted, or deleted.
            NotDone: cancel it first.
        """

    async def delete_result(self, job_id: int) -> None:
        """Delete the output and the figures of a job that is done; the job stays.

        Raises:
            NoSuchJob: never accepted, or deleted.
            NoResultYet: it is not done.
            ResultGone: deleted before.
        """

    def watch(self, job_id: int) -> AbstractContextManager[Subscription]:
        """Subscribe to the job: every change of its state."""

    def watch_output(self, job_id: int) -> AbstractContextManager[Subscription]:
        """Subscribe to the job and its output: every change of its state, and new output as soon as it is written."""

    def watch_changes(self) -> AbstractContextManager[Subscription]:
        """Subscribe to all jobs: every change of a state, and every deletion."""

    @property
    def changes(self) -> ChangeLog:
        """Which jobs changed, and in which order."""

    async def queues(self) -> QueueOverview:
        """Return every queue: those to which jobs may be submitted, and those with jobs that are not done."""

    async def pause(self, queue: str | None, *, paused: bool) -> QueueOverview:
        """Pause or resume a queue (None: all of them).

        Raises:
            NoSuchQueue: there is no queue of this name.
        """

    @property
    def queue_names(self) -> Collection[str]:
        """The queues to which jobs may be submitted: those that config names, and those made at run time."""

    async def limit_queue(self, queue: str, limit: QueueLimit) -> bool:
        """Set the limits of a queue, in place of config's, or make one; return whether it is a new one.

        Limits that are those of config are config's again, whatever it says later.

        Raises:
            TooManyQueues: no further queue may be made.
        """

    async def remove_queue(self, queue: str) -> None:
        """Remove a queue that was made at run time, and its pause.

        A job that is submitted at the same moment stays, as if config had ceased to name its queue.

        Raises:
            NoSuchQueue: there is no queue of this name.
            QueueConfigured: config names it.
            QueueNotEmpty: a job of it is not done.
        """


class Work(Protocol):
    """Jobs as the supervisor sees them: claim, finish, requeue. May raise `StoreUnavailable`."""

    @property
    def identity(self) -> HistoryIdentity:
        """Which history this is, and its generation as of now."""

    @property
    def held(self) -> Hold | None:
        """Why nothing is started, sent or removed, if the history is held."""

    async def claim(self, keeper: int, token: str) -> Claim:
        """Wait for a queued job and claim it for this keeper; `token` is a new claim token."""

    def finish(
        self, job_id: int, token: str, end: End, volume: Volume, head: Head, *, next_attempt_at: Millis | None = None
    ) -> asyncio.Future[bool]:
        """Record how the attempt ended, also if the future is cancelled; false: it does not run under this token.

        With `next_attempt_at`, another attempt follows at that time, unless a cancellation was requested.
        """

    def requeue(self, job_id: int, token: str) -> asyncio.Future[bool]:
        """Put a claimed job of which nothing was started back, as `finish` records an end.

        If its cancellation was requested meanwhile, it is done (`cancelled`) instead.
        """

    async def running(self) -> Sequence[Claim]:
        """Return the claims of all running jobs, without their secrets, the oldest job first.

        Also of those that are lost, or deleted since, and of which this host has reported nothing yet.
        """

    async def lost_claims(self, find: Callable[[], Sequence[SlotClaim]], /) -> Sequence[Claim]:
        """Return those of the claims found that the history calls lost, and whose ends it may still take (`finish`).

        Where one host has the history there is none, and `find` is not called: what it has judged is final.
        """

    async def cancelling(self) -> Sequence[Claim]:
        """Return those of these claims whose commands are to be ended, the oldest job first."""

    def watch_cancel_requests(self) -> AbstractContextManager[Subscription]:
        """Subscribe to requests to cancel a running job."""

    def command_changed(self, job_id: int) -> None:
        """Notify those who follow the status of a running job that what its row does not have has changed."""

    async def job(self, job_id: int) -> Job:
        """Return the job; see `History.job`."""

    async def request_cancel(self, job_id: int) -> Job:
        """Request the end of the job; see `History.request_cancel`."""


class Callbacks(Results, Protocol):
    """Results that are to be sent: which are due, and how each try went. May raise `StoreUnavailable`."""

    @property
    def history_id(self) -> str:
        """The random id of this history (32 hex digits): job ids begin at 1 in each."""

    async def due_callbacks(self, limit: int, skip_hosts: Collection[str] = ()) -> Sequence[DueCallback]:
        """Return up to `limit` results that are to be sent now, the longest due first, except to these hosts."""

    async def next_callback_at(self) -> Millis | None:
        """Return when the next result is to be sent; None if there is none."""

    async def record_callback_try(self, job_id: int, *, error: str | None, retry_at: Millis | None) -> None:
        """Record a try: delivered if `error` is None, else due again at `retry_at`, else failed for good."""

    def seen_now(self) -> Millis:
        """Return the time with which ages are measured: it does not follow a clock that was set forward."""

    def watch_callbacks(self) -> AbstractContextManager[Subscription]:
        """Subscribe to results that become due because a job ended."""


class Sessions(Protocol):
    """Browser sessions, kept across restarts. May raise `StoreUnavailable`."""

    async def sessions(self) -> Sequence[Session]:
        """Return every session that was begun and not ended, the oldest first; some may have expired."""

    async def session(self, digest: bytes) -> Session | None:
        """Return the session with this digest, unless it was ended; it may have expired."""

    async def change_sessions(
        self, begun: Sequence[Session], ended: Collection[bytes], ended_tokens: Collection[str] = ()
    ) -> None:
        """End all sessions of some tokens; then begin some, and end others by their digests: in one commit."""

    def watch_sessions(self) -> AbstractContextManager[Subscription]:
        """Subscribe to sessions that another process has begun or ended."""


class HistoryFigures(Protocol):
    """Counts for metrics. Counters start at 0 when the history is opened."""

    async def queues(self) -> QueueOverview:
        """Return every queue; see `History.queues`. May raise `StoreUnavailable`."""

    async def size(self) -> HistorySize:
        """Return how many done jobs the history holds now, and how much output.

        They are counted once after the opening, which a long history takes a while for; until then this waits.
        """

    @property
    def endings(self) -> Counter[tuple[str, Ending]]:
        """How many jobs ended, by queue and ending."""

    @property
    def callback_tries(self) -> Counter[Delivery]:
        """How many times a result was sent, by the outcome."""

    @property
    def removals(self) -> Counter[str]:
        """How many jobs retention removed, by reason: `age`, `number` or `bytes`."""

    @property
    def unconfirmed_time(self) -> float:
        """By how many seconds the wall clock is ahead of the time that was seen to pass; negative: behind."""

    @property
    def commits(self) -> int:
        """How many transactions were committed."""

    @property
    def cluster(self) -> ClusterFigures | None:
        """Counts of this node, if the history may have several."""


class Hosts(Protocol):
    """The server processes that open this history, each with a name of its own. May raise `StoreUnavailable`."""

    async def list(self) -> Sequence[Host]:
        """Return every host that has ever opened the history and was not removed, by name."""

    async def drain(self, name: str) -> Host:
        """Have a host start no more jobs until it is resumed, also if its server is restarted. Idempotent.

        Once this has returned it starts none; those that it runs go on.

        Raises:
            NoSuchHost: there is no host of this name.
            OnlyHost: the history has one host for ever, whose queues can be paused instead.
        """

    async def resume(self, name: str) -> Host:
        """Have a host start jobs again. Idempotent.

        Raises:
            NoSuchHost, OnlyHost: see `drain`.
        """

    async def remove(self, name: str) -> int:
        """Forget a host that is not reachable: it will not come back. Return how many of its jobs are `lost` by that.

        If it does come back, it is a new host, and what it witnessed of those jobs is added to them as `found`.

        Raises:
            NoSuchHost, OnlyHost: see `drain`.
            HostReachable: its lease has not expired.
        """


class Store(History, Work, Callbacks, Sessions, HistoryFigures, Protocol):
    """Everything a back end offers, for the composition root."""

    @property
    def hosts(self) -> Hosts:
        """The hosts of the history."""

    @property
    def orders(self) -> HostOrders | None:
        """How commands on other hosts are reached; None: there are no other hosts."""

    async def advance_generation(self) -> None:
        """Raise the generation, so that what was copied before is recognized as older from now on.

        Raises:
            StoreUnavailable: it could not be written.
        """

    def limit_submitters(self, limits: Mapping[str, SubmitterLimit]) -> None:
        """Apply these limits from now on, in place of those given before; jobs that run or wait already stay."""

    def refusals(self) -> Sequence[ShellrunnerError]:
        """Return the errors with which a job would be refused now, as far as that is known; empty if it would not."""

    async def check(self) -> None:
        """Write a value and read it back, to prove that the history works.

        Raises:
            StoreUnavailable: it cannot be written, or does not keep what is written.
        """
