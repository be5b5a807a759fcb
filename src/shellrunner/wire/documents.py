"""The documents of the API: which keys each has, and what each key means.

Types only: `serialize` makes the documents, and the OpenAPI document is generated from these types, with docstrings
as its descriptions. Must not know HTTP.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on only

from shellrunner.errors import MAX_ERRORS
from shellrunner.model import names
from shellrunner.wire.field_types import (
    Count,
    EndingName,
    ExitCode,
    Id,
    Instant,
    Link,
    Pid,
    Seconds,
    Signal,
    Small,
    StateName,
    closed,
)
from shellrunner.wire.job_documents import (
    Callback,
    Found,
    HiddenText,
    Limits,
    Pending,
    Retries,
    Streamed,
    Terminal,
    TerminalSize,
    Unreachable,
)


@closed
class Job(TypedDict):
    """A job as it was submitted, without secrets."""

    job_id: Id
    command: str
    """The line for the shell, or `argv` quoted as a shell line."""
    created: Instant
    name: str | None
    state: StateName
    done: bool
    status: Link
    result: Link | None
    """Null until the job is done, and if its result was deleted."""
    submitter: str | None
    """Who submitted it: `token:NAME`, or `uid:N` of a local process; null if it was not recorded."""
    run_as: str | None
    """The system user that runs the command; null is the user of the service."""
    again_of: Id | None
    """The job whose specification it repeats; that one may have been deleted since."""
    host: str | None
    """The host that runs it, or has run it last, if several share the history; null before, or with one host."""
    argv: Annotated[tuple[str, ...], Field(max_length=names.MAX_ARGUMENTS)] | None
    cwd: str | None
    env: Annotated[list[str], Field(max_length=names.MAX_VARIABLES)]
    """The names of the variables; values are never shown."""
    stdin: Streamed | HiddenText | None
    timeout: Seconds | None
    priority: Annotated[int, Field(ge=-names.MAX_PRIORITY, le=names.MAX_PRIORITY)]
    queue: str
    profile: str | None
    """The profile that confines the command: its own, or that of its queue or token."""
    labels: dict[str, str]
    merge_stderr: bool
    leave_children: bool | None
    encoding: str
    limits: Limits
    after: Annotated[tuple[Id, ...], Field(max_length=names.MAX_DEPENDENCIES)]
    start_at: Instant | None
    held: bool
    """Whether it waits until it is released."""
    retries: Retries | None
    notify: Callback | None
    tty: Terminal | None


@closed
class Status(TypedDict):
    """How far a job is; what is not known (yet) is null."""

    status_id: Id
    job_id: Id
    done: bool
    state: StateName
    name: str | None
    pending: Pending | None
    """Why it does not run yet; null once it runs. A change of it alone makes no event."""
    cancelling: bool
    """Cancellation was requested, and the command still runs."""
    paused: bool | None
    """The command and everything that it has started are stopped, until the job is resumed or ended. Null for a
    moment after a restart of the service, until the job's keeper has been found again."""
    host: str | None
    """The host that runs the job, or has run it last, if several share the history; null before, or with one host."""
    unreachable: Unreachable | None
    """The job runs on a host that is not reachable."""
    attempt: Small
    created: Instant
    started: Instant | None
    """While the job runs, when it was claimed for a keeper. Once it is done, when its command was started: a moment
    later; null if nothing was started, or if that is not known."""
    pid: Pid | None
    """The pid of the command while it runs; null from its own end on. It does not make an event of its own."""
    tty: TerminalSize | None
    """The present size of the terminal on which the command runs: as submitted, or as it was changed since. Null if
    it is not running, or has none."""
    completed: Instant | None
    ending: EndingName | None
    exit_code: ExitCode
    signal: Signal
    result: Link | None
    """Null until the job is done, and if its result was deleted."""
    leftovers_count: Count | None
    """How many processes the command left behind, which were ended; the result names them. Null if none were."""


@closed
class Usage(TypedDict):
    """Resources used by the command and the children that it waited for."""

    cpu_user: Seconds
    cpu_system: Seconds
    max_rss_bytes: Count | None


@closed
class LiveUsage(TypedDict):
    """What the processes of a running job use."""

    status_id: Id
    job_id: Id
    processes: Count
    """How many there are, in whatever session they are; with a profile also those of its sandbox."""
    cpu_seconds: Seconds
    """CPU time of these processes and of the children for which they have waited."""
    cpu_share: Seconds
    """How many processors they have kept busy, on average of the last `interval` seconds: 1.0 is one of them."""
    interval: Seconds
    """At least a second, if the usage was read before, and at first the time since the job's start."""
    rss_bytes: Count
    """Their resident memory. What several of them share, such as libraries, counts for each."""
    stopped: Count
    """How many of them are stopped: by a pause, a signal, or Ctrl-Z in a terminal."""


@closed
class LiveUsages(TypedDict):
    """What the processes of all running jobs use."""

    processors: Small
    """How many processors the service may use, and so its jobs."""
    usages: list[LiveUsage]
    """By id. Without jobs whose processes are not known yet, as right after a restart of the service."""


@closed
class Leftover(TypedDict):
    """A process that the command left behind."""

    pid: Pid
    command: str
    """Its command line, shortened if it is long; control characters are replaced."""


@closed
class Result(TypedDict):
    """How a job ended and what it wrote; what was not witnessed is null."""

    result_id: Id
    job_id: Id
    command: str
    created: Instant
    name: str | None
    queue: str
    priority: Annotated[int, Field(ge=-names.MAX_PRIORITY, le=names.MAX_PRIORITY)]
    labels: dict[str, str]
    started: Instant | None
    """When the command was started; null if nothing was started, or if that is not known."""
    completed: Instant
    duration: Seconds | None
    """Seconds of the monotonic clock."""
    exit_code: ExitCode
    signal: Signal
    ending: EndingName
    detail: str | None
    """Why the command did not start, was skipped, or is lost."""
    host: str | None
    """The host that ran this attempt, if several share the history; null if none did, or with one host."""
    found: Found | None
    """What is known of a `lost` attempt since its host has returned; `ending` stays `lost`. An attempt that others
    have followed gets no output by that."""
    stdout: str
    """The stream as text; if it is large, its beginning and end around a visible marker."""
    stderr: str
    """The stream as text; if it is large, its beginning and end around a visible marker."""
    stdout_bytes: Count
    """Bytes that are stored; `/api/results/{id}/stdout` has all of them."""
    stderr_bytes: Count
    """Bytes that are stored; `/api/results/{id}/stderr` has all of them."""
    stdout_dropped: Count
    """Bytes that were not stored (beyond the limit, or the disk was full), or were and are missing now."""
    stderr_dropped: Count
    """Bytes that were not stored (beyond the limit, or the disk was full), or were and are missing now."""
    truncated: bool
    """Whether the text of a stream is shortened here, or bytes of it were dropped."""
    attempt: Small
    attempts: Annotated[list[Link], Field(max_length=1001)]
    """Every attempt that has ended, each as a result of its own."""
    usage: Usage | None
    leftovers: Annotated[list[Leftover], Field(max_length=20)] | None
    """Processes that were still there when the command itself had ended and its output had settled, and that were
    then ended: SIGTERM, up to a second, SIGKILL. At most 20 are named; null if there were none. What a cancel, the
    timeout or the output limit ends together with the command is not listed."""
    leftovers_count: Count | None
    """How many there were; null if there were none."""


@closed
class Queue(TypedDict):
    """A queue, and how many of its jobs are in each state."""

    queue: str
    limit: Annotated[int, Field(ge=1, le=2**63 - 1)] | None
    """Maximum number of jobs that run at once (`max_running`); null if the queue has no limit of its own."""
    max_queued: Annotated[int, Field(ge=1, le=2**63 - 1)] | None
    """Maximum number of unstarted jobs; null if the queue has no limit of its own."""
    configured: bool
    """Whether the configuration names the queue, so that it cannot be removed."""
    paused: bool
    """Whether the queue is paused: none of its jobs is started."""
    running: Count
    queued: Count
    waiting: Count
    oldest: Instant | None
    """When the oldest of its queued jobs was accepted."""


@closed
class Held(TypedDict):
    """Why the history is held: it was copied, or restored from a backup."""

    reason: str
    since: Instant


@closed
class Queues(TypedDict):
    """All queues."""

    paused: bool
    """Whether all queues are paused: no job is started."""
    held: Held | None
    """Why they are, if the history was copied or restored: resume them once it is certain that nothing runs twice."""
    queues: list[Queue]


@closed
class Worker(TypedDict):
    """A host of the history: a server that opens it under a name of its own."""

    host: str
    runs_jobs: bool
    """Whether it runs jobs; else it only answers requests."""
    queues: list[str] | None
    """The queues whose jobs it runs; null: all."""
    slots: Count
    """How many jobs it runs at once."""
    running: Count
    """How many run there, by the history."""
    unsettled: Count
    """How many commands of jobs that are `lost`, or deleted since, may still run there."""
    free: Count
    """How many more it would start now."""
    draining: bool
    """Whether it is drained: no job is started there until it is resumed."""
    reachable: bool
    """Whether it has renewed its lease in the last 13 seconds, and was not stopped."""
    stopped: bool
    """Whether it is not reachable because its server was stopped, and nothing ran there any more."""
    seen: Instant
    """When it renewed its lease last, by the clock of the database."""
    joined: Instant
    """When it opened the history for the first time."""
    version: str
    """The version of its program."""
    responding: bool
    """Whether it is the one that sends this response."""
    differing: list[str]
    """Settings that are not those of the responding host, although all must have the same: `queues` (`[queues]` and
    `supervisor.max_queued`), `tokens` (their `max_running` and `max_queued`), `lost_after`."""


@closed
class Workers(TypedDict):
    """All hosts of the history; one, if it is in SQLite."""

    workers: list[Worker]


@closed
class RemovedWorker(TypedDict):
    """What the removal of a host has done."""

    lost: Count
    """How many of its running jobs were declared lost."""


@closed
class UnknownKeeper(TypedDict):
    """A keeper that runs a command which the history does not know."""

    keeper: Count
    """Its number, which another host may have given to a keeper of its own."""
    host: str | None
    """The host on which it runs, if several share the history."""
    pid: Pid
    job_id: Count
    """The job's id in the history that it belongs to, which may have been another one."""
    history: str
    started: Instant


@closed
class Keepers(TypedDict):
    """Keepers that run commands which the history does not know: it was restored, or is a new one."""

    keepers: list[UnknownKeeper]


@closed
class Removed(TypedDict):
    """How many of the selected jobs were deleted."""

    deleted: Count
    kept: Count
    """Jobs that were not deleted because they are not done."""


@closed
class Cancelled(TypedDict):
    """How many of the selected jobs were not done, and so were cancelled: at once, or as soon as they have ended."""

    cancelled: Count


@closed
class OutputMatch(TypedDict):
    """A place where a text was found in an output."""

    position: Count
    """How many bytes precede it, as `from` counts them."""
    length: Count
    """Its length in bytes."""
    event_id: str | None
    """The id with which the stream of events begins here (`last_event_id`); null if only one stream was searched."""
    line: Count
    """The number of the line in which it begins, counted from 1."""
    before: str
    """What precedes it in its line, at most 200 characters."""
    text: str
    after: str
    """What follows it in its line, at most 200 characters."""


@closed
class OutputMatches(TypedDict):
    """Where a text was found in an output, and how much of it was searched."""

    matches: Annotated[list[OutputMatch], Field(max_length=1000)]
    next: Link | None
    """The request that goes on where this one ended; null if everything was searched."""
    searched: Count
    """Where to go on: how many bytes precede what was not searched, or follow it with `backward`."""
    size: Count
    """How many bytes the output has so far."""


@closed
class OutputLine(TypedDict):
    """A line of an output."""

    line: Count
    """Its number, counted from 1."""
    position: Count
    """How many bytes precede it, as `from` counts them."""
    event_id: str | None
    """The id with which the stream of events begins here (`last_event_id`); null if it is of one stream."""
    lines: Count
    """How many lines the output has so far; the last one may be unfinished."""
    size: Count
    """How many bytes the output has so far."""


@closed
class Fault(TypedDict):
    """One error in a request body."""

    pointer: Annotated[
        str, Field(description="Where: a JSON pointer as a URI fragment (RFC 6901).", examples=["#/command"])
    ]
    detail: str


@closed
class Problem(TypedDict):
    """What is wrong and what helps to fix it (RFC 9457)."""

    type: Link
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    errors: NotRequired[Annotated[list[Fault], Field(max_length=MAX_ERRORS)]]
    """The errors in the request body."""
    parameter: NotRequired[str]
    """The query parameter or header that is wrong."""
    limit: NotRequired[Count]
    """The limit that applies."""
    room: NotRequired[Count]
    """How many of the jobs in the request would be accepted."""
    offset: NotRequired[Count]
    """Bytes of standard input that were accepted so far."""
    produces: NotRequired[str]
    """The media type of this route, which `Accept` excludes."""
    deleted: NotRequired[Count]
    """How many jobs would be deleted."""
    kept: NotRequired[Count]
    """How many other selected jobs are not done and would be kept."""
    cancelled: NotRequired[Count]
    """How many jobs would be cancelled."""
    lost: NotRequired[Count]
    """How many jobs would be declared lost."""
    id: NotRequired[str]
    """The id under which the service's log has the details."""
    reasons: NotRequired[Annotated[list[str], Field(max_length=10)]]
    """Kinds of reasons why the service is not ready: `store-unavailable`, `no-space`, `queue-full`, ..."""


@closed
class Index(TypedDict):
    """The entry points of the API, and what the client may do."""

    jobs: Link
    statuses: Link
    results: Link
    queues: Link
    workers: Link
    keepers: Link
    health: Link
    ready: Link
    metrics: Link
    openapi: Link
    machine: str | None
    """A digest that a client on the same machine, with the same root directory, can compute too; null: not known."""
    identity: str
    """Who the client is: `token:NAME`, or `uid:N` of a local process."""
    scopes: Annotated[list[Literal["read", "run", "admin"]], Field(max_length=3)]
    """What it may do: `read`, `run` (submit, change, cancel, delete), `admin` (queues, hosts)."""


@closed
class Jobs(TypedDict):
    """A page of jobs."""

    jobs: Annotated[list[Job], Field(max_length=1000)]
    next: Link | None
    """The next page, if there is one."""


@closed
class SubmittedJobs(TypedDict):
    """The jobs that were submitted together, in the order of the request."""

    jobs: Annotated[list[Job], Field(max_length=names.MAX_BATCH_SIZE)]


@closed
class Statuses(TypedDict):
    """A page of statuses."""

    statuses: Annotated[list[Status], Field(max_length=1000)]
    next: Link | None
    """The next page, if there is one."""


@closed
class Results(TypedDict):
    """A page of results; the text of each stream is shortened to 4 KiB."""

    results: Annotated[list[Result], Field(max_length=1000)]
    next: Link | None
    """The next page, if there is one."""
