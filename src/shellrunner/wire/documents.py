"""The documents of the API: which keys each has, and what each key means.

Types alone: `resources` makes the documents, and the OpenAPI document is made from these. Must not know HTTP.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import Field, WithJsonSchema, with_config
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on only

from shellrunner.model import Delivery, Ending, State, names
from shellrunner.model.endings import ENDINGS

TIME = "2016-08-19T15:31:42.201Z"

Instant = Annotated[
    str, Field(description="RFC 3339, UTC", json_schema_extra={"format": "date-time"}, examples=[TIME])
]
Link = Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]
StateName = Annotated[str, WithJsonSchema({"type": "string", "enum": [*State]})]
_ENDINGS = "; ".join(
    f"`{ending}`: {info.sentence}".format(exit_code="`exit_code`", signal="`signal`")
    for ending, info in ENDINGS.items()
)
EndingName = Annotated[str, WithJsonSchema({"type": "string", "enum": [*Ending], "description": _ENDINGS})]
DeliveryName = Annotated[str, WithJsonSchema({"type": "string", "enum": [*Delivery]})]
Id = Annotated[int, Field(ge=1, le=names.MAX_JOB_ID, examples=[45])]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Small = Annotated[int, Field(ge=1, le=65_535)]
Seconds = Annotated[float, Field(ge=0)]
ExitCode = Annotated[
    int | None, Field(ge=0, le=names.MAX_EXIT_CODE, description="of the command, if it exited by itself")
]
Signal = Annotated[str | None, Field(description="which ended the command", examples=["SIGSEGV"])]

closed = with_config(extra="forbid", use_attribute_docstrings=True)


@closed
class Limits(TypedDict):
    """What the job may use; null is as config says."""

    memory_bytes: Count | None
    cpu_seconds: Count | None
    processes: Count | None
    open_files: Count | None
    output_bytes: Count | None


@closed
class Streamed(TypedDict):
    """Standard input is sent while the job runs."""

    stream: Literal[True]


@closed
class Terminal(TypedDict):
    """The size of the job's pseudo-terminal."""

    rows: Small
    columns: Small


@closed
class Retries(TypedDict):
    """Which endings are followed by another attempt, how many times, and after how many seconds."""

    max: Small
    delay: Seconds
    on: Annotated[tuple[EndingName, ...], Field(max_length=7)]


@closed
class Callback(TypedDict):
    """How the result gets to where it is to be sent."""

    state: DeliveryName
    tries: Count
    error: str | None
    """why the last try failed"""


@closed
class Job(TypedDict):
    """A job as it was asked for, without secrets."""

    job_id: Id
    command: str
    """the line for the shell, or argv quoted as for one"""
    created: Instant
    state: StateName
    done: bool
    status: Link
    result: Link | None
    """null until it is done, and when it was deleted"""
    submitter: str | None
    """who asked for it: `token:NAME`, or `uid:N` of a process here; null if that was not recorded yet"""
    run_as: str | None
    """the system user of its command; null is the service's own"""
    argv: Annotated[tuple[str, ...], Field(max_length=names.MAX_ARGUMENTS)] | None
    cwd: str | None
    env: Annotated[list[str], Field(max_length=names.MAX_VARIABLES)]
    """the variables' names; values are never shown"""
    stdin: Streamed | None
    """null also for text, which is never shown"""
    timeout: Seconds | None
    priority: Annotated[int, Field(ge=-names.MAX_PRIORITY, le=names.MAX_PRIORITY)]
    queue: str
    labels: dict[str, str]
    merge_stderr: bool
    leave_children: bool | None
    encoding: str
    limits: Limits
    after: Annotated[tuple[Id, ...], Field(max_length=names.MAX_DEPENDENCIES)]
    start_at: Instant | None
    retries: Retries | None
    notify: Callback | None
    tty: Terminal | None


@closed
class Status(TypedDict):
    """How far a job is; what is not known yet, or never was, is null."""

    status_id: Id
    job_id: Id
    done: bool
    state: StateName
    cancelling: bool
    """its end was asked for, and it still runs"""
    attempt: Small
    created: Instant
    started: Instant | None
    completed: Instant | None
    ending: EndingName | None
    exit_code: ExitCode
    signal: Signal
    result: Link | None
    """null until it is done, and when it was deleted"""


@closed
class Usage(TypedDict):
    """What the command and the children it waited for used."""

    cpu_user: Seconds
    cpu_system: Seconds
    max_rss_bytes: Count | None


@closed
class Result(TypedDict):
    """How a job ended and what it wrote; what nobody witnessed is null."""

    result_id: Id
    job_id: Id
    command: str
    created: Instant
    started: Instant | None
    completed: Instant
    duration: Seconds | None
    """seconds of the monotonic clock"""
    exit_code: ExitCode
    signal: Signal
    ending: EndingName
    detail: str | None
    """why it did not start, was skipped, or is lost"""
    stdout: str
    """as text, cut around a visible marker if it is large"""
    stderr: str
    """likewise"""
    stdout_bytes: Count
    """all that is stored, and to be had at .../stdout"""
    stderr_bytes: Count
    """likewise"""
    stdout_dropped: Count
    """bytes that could not be stored: over the limit, or on a full disk"""
    stderr_dropped: Count
    """likewise"""
    truncated: bool
    """the text here is cut"""
    attempt: Small
    attempts: Annotated[list[Link], Field(max_length=1001)]
    """each attempt that is over, as a result of its own"""
    usage: Usage | None


@closed
class Queue(TypedDict):
    """A queue, and how many of its jobs stand where."""

    queue: str
    limit: Annotated[int, Field(ge=1, le=2**63 - 1)] | None
    """how many may run at once; null is no limit of its own"""
    paused: bool
    """nothing new of it starts"""
    running: Count
    queued: Count
    waiting: Count
    oldest: Instant | None
    """when the oldest of its queued jobs was accepted"""


@closed
class Queues(TypedDict):
    """All queues."""

    paused: bool
    """nothing new starts at all"""
    queues: list[Queue]


@closed
class Removed(TypedDict):
    """What became of the jobs that were to be deleted."""

    deleted: Count
    kept: Count
    """not done yet, and so not deleted"""


@closed
class Fault(TypedDict):
    """One thing that is wrong with a body."""

    pointer: Annotated[
        str, Field(description="where: a JSON pointer in a fragment (RFC 6901)", examples=["#/command"])
    ]
    detail: str


@closed
class Problem(TypedDict):
    """What went wrong (RFC 9457), and what helps to mend it."""

    type: Link
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    errors: NotRequired[Annotated[list[Fault], Field(max_length=100)]]
    """what is wrong with the body, each with its place"""
    parameter: NotRequired[str]
    """the parameter of the query, or the header, that is wrong"""
    limit: NotRequired[Count]
    """the most that is possible"""
    offset: NotRequired[Count]
    """bytes of input that were taken so far"""
    produces: NotRequired[str]
    """the media type that `Accept` excludes"""
    deleted: NotRequired[Count]
    """how many jobs would be deleted"""
    kept: NotRequired[Count]
    """how many more are meant, but not done"""
    id: NotRequired[str]
    """under which the log says more"""


@closed
class Index(TypedDict):
    """Where to go from here."""

    jobs: Link
    statuses: Link
    results: Link
    queues: Link
    health: Link
    ready: Link
    metrics: Link
    openapi: Link


@closed
class Jobs(TypedDict):
    """A page of jobs."""

    jobs: Annotated[list[Job], Field(max_length=1000)]
    next: Link | None
    """the next page, if there is one"""


@closed
class Statuses(TypedDict):
    """A page of statuses."""

    statuses: Annotated[list[Status], Field(max_length=1000)]
    next: Link | None
    """the next page, if there is one"""


@closed
class Results(TypedDict):
    """A page of results; their texts are cut at 4 KiB."""

    results: Annotated[list[Result], Field(max_length=1000)]
    next: Link | None
    """the next page, if there is one"""
