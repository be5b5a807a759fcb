"""What a job is: what was asked for, the states it goes through, and how it ends.

The vocabulary of the whole program; everybody may read it. Must not know SQL, HTTP, asyncio or config.
Times are whole milliseconds since the epoch (UTC), durations are seconds of the monotonic clock.
"""

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from shellrunner import charsets

Millis = int  # milliseconds since 1970-01-01T00:00:00Z

MAX_ARGUMENT: Final = 131_071  # bytes of one argument or variable: MAX_ARG_STRLEN less its NUL (execve(2))
MAX_COUNT: Final = {"argv": 16_384, "env": 4_096}  # arguments and variables
MAX_UNKNOWN: Final = 100  # unknown keys that are told
MAX_TIMEOUT: Final = 10 * 365 * 86_400.0  # seconds; ten years, well inside what poll(2) and time_t can hold


class Stream(StrEnum):
    """Where a byte of output was written."""

    STDOUT = "stdout"
    STDERR = "stderr"


class State(StrEnum):
    """Where a job stands. Legal: queued → running → done, queued → done, and running → queued
    for a claim of which nothing was ever started."""

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
    FAILED_TO_START = "failed_to_start"
    LOST = "lost"


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    if len(text.encode()) > MAX_ARGUMENT:
        raise ValueError(f"must be at most {MAX_ARGUMENT} bytes of UTF-8")
    return text


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path")
    return path


Argument = Annotated[str, AfterValidator(_argument)]
Charset = Annotated[str, AfterValidator(charsets.canonical)]

_VARIABLE = re.compile(r"[^=\0]+")
_OURS = ("SHELLRUNNER_JOB", "SHELLRUNNER_JOB_ID")


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {key: value for key, value in data.items() if value is not None}
        # Each is a fault to be told, and a body has room for so many that it would take seconds.
        if len(given) > MAX_UNKNOWN:
            known = cls.model_fields
            for key in [key for key in given if key not in known][MAX_UNKNOWN:]:
                del given[key]
        return given


class Limits(_Request):
    """What the job may use; `None` means: as config says."""

    output_bytes: int | None = Field(
        None, ge=1, le=2**62, description="both streams together, as stored; over it the job is ended"
    )


class JobSpec(_Request):
    """What was asked for: exactly one of `command` (run by the shell) and `argv` (run as it is)."""

    command: Annotated[Argument, StringConstraints(min_length=1)] | None = None
    argv: tuple[Argument, ...] | None = Field(None, min_length=1, strict=False)
    cwd: Annotated[Argument, AfterValidator(_absolute)] | None = None
    env: dict[str, str] = Field(default_factory=dict)
    stdin: str | None = None
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT, description="seconds from its start")
    priority: int = Field(0, ge=-1000, le=1000)
    merge_stderr: bool = False
    leave_children: bool | None = None
    encoding: Charset = "utf-8"
    limits: Limits = Limits()

    @field_validator("argv", "env", mode="before")
    @classmethod
    def _not_too_many(cls, given: Any, info: ValidationInfo) -> Any:
        # Counted before any is looked at, because each could be a fault.
        most = MAX_COUNT[str(info.field_name)]
        if isinstance(given, list | tuple | dict) and len(given) > most:
            raise ValueError(f"must have at most {most} items")
        return given

    @field_validator("argv")
    @classmethod
    def _names_a_program(cls, argv: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if argv is not None and not argv[0]:
            raise ValueError("the first must name a program")
        return argv

    @field_validator("env")
    @classmethod
    def _variables(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name[:100]!r} is not a variable's name: empty, or has '=' or NUL in it")
            if name in _OURS:
                raise ValueError(f"{name} is set by the service")
            _argument(f"{name}={value}")
        return env

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.command is None) == (self.argv is None):
            raise ValueError("exactly one of command and argv is required")
        return self

    @property
    def shown(self) -> str:
        """The command as lists show it: the shell's own line, or the argv quoted for a shell."""
        return self.command if self.command is not None else shlex.join(self.argv or ())

    def redacted(self) -> Self:
        """The same without secrets: the values of `env` blank, `stdin` gone."""
        return self.model_copy(update={"env": dict.fromkeys(self.env, ""), "stdin": None})


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
_ENDED_BY_US = (Ending.TIMED_OUT, Ending.CANCELLED, Ending.OUTPUT_LIMIT)
_EXPLAINED = (Ending.LOST, Ending.FAILED_TO_START)


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


Phase = Queued | Running | Done


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted command, as everybody may see it: `spec` is redacted."""

    id: int
    spec: JobSpec
    created: Millis
    phase: Phase

    @property
    def state(self) -> State:
        """The phase's name."""
        return _STATES[type(self.phase)]

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return isinstance(self.phase, Done)


_STATES = {Queued: State.QUEUED, Running: State.RUNNING, Done: State.DONE}


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to start one job once: given to one keeper, committed before the keeper hears of it."""

    job_id: int
    token: str
    keeper: int
    spec: JobSpec
    claimed: Millis
    cancelling: bool = False
