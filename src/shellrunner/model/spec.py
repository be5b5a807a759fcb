"""The request for a job: its specification, and the rules that it must keep.

Validated wherever it is constructed, so an invalid one does not exist. Must not know SQL, HTTP, asyncio or the
configuration: what a service allows beyond these rules is `access.job_policy`'s.
"""

import shlex
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from shellrunner.clock import Millis, parse_rfc3339
from shellrunner.model.fields import (
    ANCHORED_NAME,
    NO_NUL,
    RETRYABLE,
    Argument,
    CallbackUrl,
    Charset,
    Instant,
    JobId,
    LabelValue,
    Name,
    RetryableEnding,
    VariableName,
    WorkingDirectory,
    describe,
    json_schema,
    url_host,
)
from shellrunner.model.names import (
    MAX_ARGUMENT_BYTES,
    MAX_ARGUMENTS,
    MAX_BATCH_SIZE,
    MAX_BODY_BYTES,
    MAX_DEPENDENCIES,
    MAX_LABEL_LENGTH,
    MAX_LABELS,
    MAX_NAME_LENGTH,
    MAX_PRIORITY,
    MAX_QUEUE_LIMIT,
    MAX_VARIABLES,
    RESERVED_VARIABLES,
)

MAX_TIMEOUT: Final = 10 * 365 * 86_400.0  # seconds; ten years, well within what poll(2) and time_t can hold
_MAX_ITEMS: Final = {"argv": MAX_ARGUMENTS, "env": MAX_VARIABLES}
_MAX_UNKNOWN_KEYS: Final = 100  # reported ones


class _Request(BaseModel):
    # Neither `repr` nor the text of an error, which a traceback may bring into the log, has a value that is a secret.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {key: value for key, value in data.items() if value is not None}
        # Each unknown key is an error to report, and a body may have so many that reporting all would take seconds.
        if len(given) > _MAX_UNKNOWN_KEYS:
            known = cls.model_fields
            for key in [key for key in given if key not in known][_MAX_UNKNOWN_KEYS:]:
                del given[key]
        return given


class Limits(_Request):
    """Limits of resources; None is the configuration's. All but `output_bytes` are those of setrlimit(2)."""

    memory_bytes: int | None = Field(None, ge=1, le=2**62, description="address space of each process (RLIMIT_AS)")
    cpu_seconds: int | None = Field(None, ge=1, le=2**31, description="CPU time of each process (RLIMIT_CPU)")
    processes: int | None = Field(
        None, ge=1, le=2**31, description="processes of the job's user, not of the job alone (RLIMIT_NPROC)"
    )
    open_files: int | None = Field(None, ge=8, le=2**20, description="open files of each process (RLIMIT_NOFILE)")
    output_bytes: int | None = Field(
        None, ge=1, le=2**62, description="stored output of both streams together; a job that exceeds it is ended"
    )


class Streamed(_Request):
    """Standard input that is sent while the job runs."""

    stream: Literal[True]


class Terminal(_Request):
    """A job's pseudo-terminal: its size, and whether it shows what is typed."""

    rows: int = Field(24, ge=1, le=65_535)
    columns: int = Field(80, ge=1, le=65_535)
    echo: bool = Field(False, description="echo the input, as while a user types")


class ResizeRequest(_Request):
    """The new size of a running job's pseudo-terminal."""

    rows: int = Field(ge=1, le=65_535)
    columns: int = Field(ge=1, le=65_535)


class SignalRequest(_Request):
    """A signal for a running command, by name; which names exist depends on the kernel."""

    signal: Annotated[str, json_schema(maxLength=32)] = Field(description="SIGHUP, SIGRTMIN+3, … (signal(7))")
    to: Annotated[
        Literal["group", "tree"],
        describe("the command's own process group, or every process group among its descendants, its own included"),
    ] = "group"


class QueueChange(_Request):
    """The limits of a queue; what is absent is not limited."""

    max_running: int | None = Field(None, ge=1, le=MAX_QUEUE_LIMIT, description="maximum number of its running jobs")
    max_queued: int | None = Field(None, ge=1, le=MAX_QUEUE_LIMIT, description="maximum number of its unstarted jobs")


class Retries(_Request):
    """Further attempts: at most `max`, each `delay` seconds after one whose ending is in `on`."""

    max: int = Field(ge=1, le=1000)
    delay: float = Field(0.0, ge=0, le=30 * 86_400.0, description="seconds between an attempt's end and the next")
    on: tuple[RetryableEnding, ...] = Field(
        ("exited",),
        min_length=1,
        max_length=len(RETRYABLE),
        strict=False,
        description="endings that are followed by another attempt; `exited`: with a code other than 0; `lost`: the "
        "command is run at least once, not at most once: what was lost may have done its work, or, where several "
        "hosts share the history, still run on one that cannot be reached",
    )


class Notify(_Request):
    """The URL to which the result is sent once it is recorded."""

    url: CallbackUrl

    @property
    def host(self) -> str:
        """The URL's host in lower case, with the port if one is given."""
        return url_host(self.url)


_Line = Annotated[Argument, StringConstraints(min_length=1)]
_Words = Annotated[
    tuple[Argument, ...],
    Field(min_length=1, max_length=MAX_ARGUMENTS, strict=False),
    # The program has a name. With `prefixItems` alone, generators would take it for a list of one element.
    json_schema(**{"not": {"prefixItems": [{"const": ""}]}}),
]
_Text = Annotated[str, json_schema(maxLength=MAX_BODY_BYTES)]
_Variables = Annotated[
    dict[VariableName, Argument],
    json_schema(
        maxProperties=MAX_VARIABLES,
        propertyNames={"pattern": r"^[^=\u0000]+$", "not": {"enum": [*RESERVED_VARIABLES]}},
        additionalProperties={"type": "string", "maxLength": MAX_ARGUMENT_BYTES, "pattern": NO_NUL},
    ),
]
_Labels = Annotated[
    dict[Name, LabelValue],
    Field(max_length=MAX_LABELS),
    json_schema(
        patternProperties={ANCHORED_NAME: {"type": "string", "maxLength": MAX_LABEL_LENGTH, "pattern": NO_NUL}},
        additionalProperties=False,
    ),
]
_Jobs = Annotated[tuple[JobId, ...], Field(max_length=MAX_DEPENDENCIES, strict=False)]


class JobSpec(_Request):
    """A job's specification: exactly one of `command` (run by the shell) and `argv` (run without one)."""

    command: Annotated[
        _Line | None, describe(f"a line for the shell; at most {MAX_ARGUMENT_BYTES:,} bytes of UTF-8")
    ] = None
    argv: Annotated[
        _Words | None, describe("words run without a shell; the program is searched in the job's PATH")
    ] = None
    name: Annotated[
        Annotated[Name, json_schema(maxLength=MAX_NAME_LENGTH)] | None,
        describe("a name to find it by; several jobs may have the same"),
    ] = None
    cwd: Annotated[WorkingDirectory | None, describe("working directory; if absent, the configuration's")] = None
    env: Annotated[_Variables, describe("added to the job's environment; values are never shown again")] = Field(
        default_factory=dict, repr=False
    )
    stdin: Annotated[
        _Text | Streamed | None, describe("text for standard input, or that it is sent while the job runs")
    ] = Field(None, repr=False)
    timeout: float | None = Field(
        None, gt=0, le=MAX_TIMEOUT, description="seconds after its start at which the job is ended"
    )
    priority: int = Field(
        0, ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="the largest starts first, then the oldest"
    )
    queue: Annotated[
        Name, json_schema(maxLength=MAX_NAME_LENGTH), describe("an existing queue (see `GET /api/queues`)")
    ] = "default"
    profile: Annotated[
        Annotated[Name, json_schema(maxLength=MAX_NAME_LENGTH)] | None,
        describe("a profile of the configuration, which confines the command"),
    ] = None
    labels: Annotated[_Labels, describe("keys and values to filter by")] = Field(default_factory=dict)
    merge_stderr: Annotated[bool, describe("write stderr to stdout")] = False
    leave_children: Annotated[
        bool | None, describe("let processes that it leaves behind go on; if absent, the configuration's")
    ] = None
    encoding: Annotated[Charset, describe("the charset of its output, by any of its names")] = "utf-8"
    limits: Limits = Limits()
    after: Annotated[_Jobs, describe("jobs that must all exit with 0 first; otherwise this one is skipped")] = ()
    start_at: Annotated[Instant | None, describe("the earliest time to start")] = None
    held: Annotated[bool, describe("do not start it until it is released, by PATCH with `held` false")] = False
    retries: Retries | None = None
    notify: Notify | None = None
    tty: Annotated[Terminal | None, describe("a pseudo-terminal; `true` has the default size")] = None

    @field_validator("stdin", mode="before")
    @classmethod
    def _text_or_stream(cls, given: Any) -> Any:
        if isinstance(given, str | Streamed):
            return given
        if isinstance(given, dict) and list(given) == ["stream"] and given["stream"] is True:
            return Streamed(stream=True)
        raise ValueError('must be a string, or {"stream": true}')

    @field_validator("tty", mode="before")
    @classmethod
    def _bool_or_size(cls, given: Any) -> Any:
        if isinstance(given, bool):
            return Terminal() if given else None
        return given

    @field_validator("argv", "env", mode="before")
    @classmethod
    def _not_too_many(cls, given: Any, info: ValidationInfo) -> Any:
        # Counted before any item is validated, because each could be an error to report.
        limit = _MAX_ITEMS[str(info.field_name)]
        if isinstance(given, list | tuple | dict) and len(given) > limit:
            raise ValueError(f"must have at most {limit} items")
        return given

    @field_validator("argv")
    @classmethod
    def _names_a_program(cls, argv: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if argv is not None and not argv[0]:
            raise ValueError("the first must name a program")
        return argv

    @field_validator("env")
    @classmethod
    def _fits_the_kernel(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if len(name.encode()) + len(value.encode()) >= MAX_ARGUMENT_BYTES:
                raise ValueError(f"{name[:100]} and its value must be less than {MAX_ARGUMENT_BYTES} bytes of UTF-8")
        return env

    @model_validator(mode="after")
    def _either_command_or_argv(self) -> Self:
        if (self.command is None) == (self.argv is None):
            raise ValueError("exactly one of command and argv is required")
        return self

    @property
    def command_line(self) -> str:
        """The command as it is shown: the line for the shell, or `argv` quoted for one."""
        return self.command if self.command is not None else shlex.join(self.argv or ())

    @property
    def earliest_start(self) -> Millis | None:
        """`start_at` as a number."""
        return None if self.start_at is None else parse_rfc3339(self.start_at)

    def redacted(self) -> Self:
        """Return a copy without secrets: the values of `env` and the text of `stdin` are blank."""
        stdin = "" if isinstance(self.stdin, str) else self.stdin
        return self.model_copy(update={"env": dict.fromkeys(self.env, ""), "stdin": stdin})

    def has_text(self) -> bool:
        """Return whether there is text for standard input, which is blank if this is a redacted copy."""
        return isinstance(self.stdin, str)


class JobPatch(_Request):
    """What to change of a job that has not started, as a merge patch (RFC 7396): null removes a value."""

    name: Annotated[Name, json_schema(maxLength=MAX_NAME_LENGTH)] | None = None
    priority: int = Field(0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    queue: Annotated[Name, json_schema(maxLength=MAX_NAME_LENGTH)] = "default"
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT)
    labels: Annotated[
        dict[Name, LabelValue | None],
        Field(max_length=MAX_LABELS),
        describe("labels to set; null removes one"),
    ] = Field(default_factory=dict)
    after: Annotated[_Jobs, describe("none of them may wait for this job, or have failed")] = ()
    start_at: Annotated[Instant | None, describe("it also replaces the delay of a retry")] = None
    held: Annotated[bool, describe("true keeps it from starting, false releases it")] = False


class AgainRequest(JobSpec):
    """What to replace in the specification of an earlier job, as a merge patch (RFC 7396): null removes a value.

    Values of variables, and text for standard input, are not kept: they must be given again, or left out by null.
    """

    @model_validator(mode="after")
    def _either_command_or_argv(self) -> Self:
        return self


class JobBatch(_Request):
    """Jobs that are submitted together: all are accepted, or none."""

    # Each is a `JobSpec`, but validated by itself: the list could make a million errors, and report all of them.
    jobs: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_BATCH_SIZE),
        describe("in the order in which they are accepted; `after` may name only jobs that were accepted before"),
    ]
