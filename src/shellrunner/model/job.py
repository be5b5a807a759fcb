"""Job lifecycle: phases, resource usage, how a job ends, and who owns it.

Read by every package. Must not know SQL, HTTP, asyncio or the configuration. Times are whole milliseconds since the
epoch (UTC), durations are seconds of the monotonic clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from shellrunner.clock import Millis
from shellrunner.model.endings import ENDINGS, Ending, WaitStatus
from shellrunner.model.names import MAX_EXIT_CODE

if TYPE_CHECKING:  # it needs pydantic, see the package
    from shellrunner.model.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Submitter:
    """The identity that submitted a job (`token:NAME`, `uid:1000`), and the user it runs as (None: the service's).

    sees_all: it may read the jobs of others; for any other identity those do not exist.
    kill_only: nothing that it asks for sends its commands a signal before they are killed (see `Claim`).
    """

    name: str
    run_as: str | None = None
    sees_all: bool = True
    kill_only: bool = False

    def owns(self, submitter: str | None, run_as: str | None) -> bool:
        """Return whether a job of this submitter, with this user, is its own."""
        return (submitter, run_as) == (self.name, self.run_as)


class Stream(StrEnum):
    """The stream to which output was written."""

    STDOUT = "stdout"
    STDERR = "stderr"


class State(StrEnum):
    """The name of a job's phase.

    waiting → queued → running → done
    queued ⇄ waiting            held, released, or given something else to wait for
    waiting, queued → done      cancelled, or skipped because a job before it failed
    running → queued            a claim under which nothing was started
    running → waiting           another attempt follows
    """

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources used by the command and the children it waited for, as reported by getrusage(2).

    `max_rss_bytes` is None if it does not exceed what the keeper itself had in memory: the kernel then reports the
    keeper's figure, which says nothing about the command.
    """

    cpu_user: float
    cpu_system: float
    max_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Volume:
    """Bytes of output that were stored, and that were dropped (beyond the limit, or with the disk full)."""

    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_dropped: int = 0
    stderr_dropped: int = 0

    @property
    def stored(self) -> int:
        """The output's length: the position after its last byte."""
        return self.stdout_bytes + self.stderr_bytes

    @property
    def dropped(self) -> int:
        """How many bytes were not stored, or are missing."""
        return self.stdout_dropped + self.stderr_dropped

    def dropped_bytes(self, stream: Stream) -> int:
        """Return how many bytes of this stream were not stored, or are missing."""
        return self.stdout_dropped if stream is Stream.STDOUT else self.stderr_dropped

    def stream_bytes(self, stream: Stream) -> int:
        """Return how many bytes of this stream are stored."""
        return self.stdout_bytes if stream is Stream.STDOUT else self.stderr_bytes


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process that a command left behind; `command` is the beginning of its command line."""

    pid: int
    command: str


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Processes that a command left behind and that were ended with it: the first ones, and how many there were."""

    processes: tuple[Leftover, ...]
    count: int


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended. Its parts must fit its ending (see `endings`); what was not witnessed is None.

    `started` is when the keeper started the command, not when the job was claimed, which is a moment earlier.
    """

    ending: Ending
    completed: Millis
    exit_code: int | None = None
    signal: str | None = None
    detail: str | None = None
    started: Millis | None = None
    duration: float | None = None
    usage: Usage | None = None
    leftovers: Leftovers | None = None

    def __post_init__(self) -> None:
        """Refuse a combination that cannot be true.

        Raises:
            ValueError: the parts contradict each other.
        """
        info, code, signal = ENDINGS[self.ending], self.exit_code, self.signal
        if code is not None and (signal is not None or not 0 <= code <= MAX_EXIT_CODE):
            raise ValueError(f"exit code {code} with signal {signal}")
        if info.wait_status is not WaitStatus.EITHER:
            if (info.wait_status is WaitStatus.EXIT_CODE) != (code is not None):
                raise ValueError(f"{self.ending} with exit code {code}")
            if (info.wait_status is WaitStatus.SIGNAL) != (signal is not None):
                raise ValueError(f"{self.ending} with signal {signal}")
        if info.needs_detail and not self.detail:
            raise ValueError(f"{self.ending} without detail")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Accepted, but not ready: it is held, other jobs must end first, or its `start_at` or a retry's delay must pass.

    awaits: how many jobs must end first, of which `awaited` was accepted first. due: when it may start, if that is
    known.
    """

    held: bool = False
    awaits: int = 0
    awaited: int | None = None
    due: Millis | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """Ready to start as soon as its queue, its submitter and the service have capacity."""

    queue: str
    submitter: str | None = None


class Unreachable(NamedTuple):
    """The host that runs a job is unreachable since this time: how far the job is, is not known."""

    host: str
    since: Millis


@dataclass(frozen=True, slots=True)
class Running:
    """Claimed for one keeper under one claim token; `cancelling` once its cancellation was requested.

    When the command started is recorded only at its end: the keeper reports it. Until then, the API shows `claimed`
    as the status's `started`. `unreachable`: its host is.
    """

    claimed: Millis
    cancelling: bool = False
    unreachable: Unreachable | None = None


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """The size of a pseudo-terminal, in characters."""

    rows: int
    columns: int


class CommandState(NamedTuple):
    """What is known of a running command beside its job's history, which does not record it.

    pid: of the command, until its own end. paused: its tree is stopped until it is resumed; None: not known yet.
    terminal: the present size of its terminal, if it has one.
    """

    pid: int | None = None
    paused: bool | None = False
    terminal: TerminalSize | None = None


@dataclass(frozen=True, slots=True)
class LiveUsage:
    """What the living processes of a running job use, and have used.

    cpu_seconds: theirs, and of the children for which they have waited. cpu_share: how many processors they have kept
    busy on average in the last `interval` seconds. rss_bytes: their memory, of which they may share some.
    stopped: how many of them do not run until they get SIGCONT.
    """

    processes: int
    cpu_seconds: float
    cpu_share: float
    interval: float
    rss_bytes: int
    stopped: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a witness reported of a job after it had been declared `lost`; its output is the job's."""

    ending: Ending
    completed: Millis
    exit_code: int | None = None
    signal: str | None = None


class AttemptHost(NamedTuple):
    """The host that ran an attempt, if the history has several, and what it has reported of a lost one."""

    name: str | None = None
    found: Found | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Ended. `volume` is None if the result was deleted from the history; `found` is for a `lost` attempt only.

    host: the one that ran an attempt which others followed, if the history has several (else see `Job`).
    """

    end: End
    volume: Volume | None
    found: Found | None = None
    host: str | None = None


Phase = Waiting | Queued | Running | Done


class Delivery(StrEnum):
    """The state of a completion callback."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Callback:
    """The delivery of the result to `notify.url`: its state, the number of tries, and why the last one failed."""

    state: Delivery
    tries: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How far a job is: what is known of it without its specification. `host`: see `Job`."""

    id: int
    created: Millis
    phase: Phase
    attempt: int = 1
    name: str | None = None
    host: str | None = None

    @property
    def state(self) -> State:
        """The phase's name."""
        return _STATES[type(self.phase)]

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return isinstance(self.phase, Done)


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted command, as it may be shown: `spec` is redacted.

    `attempt` counts from 1; while the job waits, it is the attempt that comes next. `submitter` is None for jobs
    accepted before schema 3, which did not record it. `again_of` is the job whose specification it repeats. `host` is
    the one that runs it or has run it, if the history has several.
    """

    id: int
    spec: "JobSpec"
    created: Millis
    phase: Phase
    attempt: int = 1
    callback: Callback | None = None
    submitter: str | None = None
    run_as: str | None = None
    again_of: int | None = None
    host: str | None = None

    @property
    def name(self) -> str | None:
        """The name that it was given."""
        return self.spec.name

    @property
    def state(self) -> State:
        """The phase's name."""
        return _STATES[type(self.phase)]

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return isinstance(self.phase, Done)


_STATES = {Waiting: State.WAITING, Queued: State.QUEUED, Running: State.RUNNING, Done: State.DONE}


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to start one job once: granted to one keeper, and committed before the keeper learns of it.

    `token` is the claim token (no access token): what a keeper recorded under another one is of another claim. `spec`
    has the job's secrets if it was claimed just now. `ready` is since when the job could have started: when it was
    accepted, or when what it waited for was over. `kill_only`: its command is ended by KILL, without TERM and grace,
    whatever the cause: a client that may run only some commands must not choose which of their steps a signal ends.
    """

    job_id: int
    token: str
    keeper: int
    spec: "JobSpec"
    claimed: Millis
    cancelling: bool = False
    attempt: int = 1
    ready: Millis | None = None
    run_as: str | None = None
    kill_only: bool = False


def next_attempt_at(spec: "JobSpec", attempt: int, end: End, now: Millis) -> Millis | None:
    """Return when the attempt after this one (counted from 1) is due; None if this one was the last.

    Never later than its delay from `now`: the clock may have been set back since the end.
    """
    retries = spec.retries
    if retries is None or attempt > retries.max or end.ending.value not in retries.on or end.exit_code == 0:
        return None
    return min(end.completed, now) + round(retries.delay * 1000)
