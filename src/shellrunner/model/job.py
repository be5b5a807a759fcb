"""What becomes of a job: the states it goes through, what it used, how it ends, and who has it.

Read by everybody. Must not know SQL, HTTP, asyncio or config. Times are whole milliseconds since the epoch (UTC),
durations are seconds of the monotonic clock.
"""

from dataclasses import dataclass
from enum import StrEnum

from shellrunner.clock import Millis
from shellrunner.model.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who submitted a job (`token:NAME` or `uid:1000`), and the system user that it runs as (None: the service's)."""

    name: str
    run_as: str | None = None


class Stream(StrEnum):
    """Where a byte of output was written."""

    STDOUT = "stdout"
    STDERR = "stderr"


class State(StrEnum):
    """Where a job stands. Legal: waiting → queued → running → done; waiting or queued → done (cancelled, skipped);
    running → queued for a claim of which nothing was ever started; running → waiting before another attempt."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


class Ending(StrEnum):
    """Why a job is done. Never invented: what the kernel reported to a witness, or `lost`."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    OUTPUT_LIMIT = "output_limit"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED_TO_START = "failed_to_start"
    SKIPPED = "skipped"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the command and the children it waited for used, as getrusage(2) reports it.

    `max_rss_bytes` is None when it is not above what the keeper itself had in memory: the kernel then
    reports the keeper's figure, which says nothing about the command.
    """

    cpu_user: float
    cpu_system: float
    max_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Volume:
    """How much was written: bytes stored, and bytes that could not be stored (over the limit, disk full)."""

    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_dropped: int = 0
    stderr_dropped: int = 0

    @property
    def stored(self) -> int:
        """The output's length: the position after its last byte."""
        return self.stdout_bytes + self.stderr_bytes


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended. Its parts must fit each other; what nobody witnessed is None."""

    ending: Ending
    completed: Millis
    exit_code: int | None = None
    signal: str | None = None
    detail: str | None = None
    started: Millis | None = None
    duration: float | None = None
    usage: Usage | None = None

    def __post_init__(self) -> None:
        """Refuse a combination that cannot be true.

        Raises:
            ValueError: the parts contradict each other.
        """
        code, signal = self.exit_code, self.signal
        if code is not None and (signal is not None or not 0 <= code <= 255):
            raise ValueError(f"exit code {code} with signal {signal}")
        if (self.ending is Ending.EXITED) != (code is not None) and self.ending not in _ENDED_BY_US:
            raise ValueError(f"{self.ending} with exit code {code}")
        if (self.ending is Ending.SIGNALLED) != (signal is not None) and self.ending not in _ENDED_BY_US:
            raise ValueError(f"{self.ending} with signal {signal}")
        if self.ending in _EXPLAINED and not self.detail:
            raise ValueError(f"{self.ending} without detail")


# These endings say why it was ended; the code or signal beside them is what the kernel then reported, if anything.
_ENDED_BY_US = (Ending.TIMED_OUT, Ending.CANCELLED, Ending.OUTPUT_LIMIT, Ending.OUT_OF_MEMORY)
_EXPLAINED = (Ending.LOST, Ending.FAILED_TO_START, Ending.SKIPPED)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Accepted, and not to start yet: for other jobs' ends, for its `start_at`, or for a retry's delay."""


@dataclass(frozen=True, slots=True)
class Queued:
    """Accepted, and waiting for a place."""


@dataclass(frozen=True, slots=True)
class Running:
    """Claimed for one keeper under one token; `cancelling` once somebody asked for its end."""

    started: Millis
    cancelling: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """Over. `volume` is None when the result was deleted from the history."""

    end: End
    volume: Volume | None


Phase = Waiting | Queued | Running | Done


class Delivery(StrEnum):
    """Where a completion callback stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Callback:
    """What has become of the result's way to `notify.url`: so many tries, and why the last one failed."""

    state: Delivery
    tries: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted command, as everybody may see it: `spec` is redacted.

    `submitter` is None where that is not known: who asked was not written down before schema 3.
    """

    id: int
    spec: JobSpec
    created: Millis
    phase: Phase
    attempt: int = 1  # counted from 1; while it waits, the one that comes next
    callback: Callback | None = None
    submitter: str | None = None
    run_as: str | None = None

    @property
    def state(self) -> State:
        """The phase's name."""
        return _STATES[type(self.phase)]

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return isinstance(self.phase, Done)


_STATES = {Waiting: State.WAITING, Queued: State.QUEUED, Running: State.RUNNING, Done: State.DONE}


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to start one job once: given to one keeper, committed before the keeper hears of it."""

    job_id: int
    token: str
    keeper: int
    spec: JobSpec
    claimed: Millis
    cancelling: bool = False
    attempt: int = 1
    ready: Millis | None = None  # since when it could start: accepted, or what it waited for was over
    run_as: str | None = None


def next_attempt_at(spec: JobSpec, attempt: int, end: End) -> Millis | None:
    """When another attempt is due after this one (counted from 1) ended so; None: it was the last."""
    retries = spec.retries
    if retries is None or attempt > retries.max or end.ending.value not in retries.on or end.exit_code == 0:
        return None
    return end.completed + round(retries.delay * 1000)
