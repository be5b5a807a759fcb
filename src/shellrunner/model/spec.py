"""What is asked for: a job's specification, and what may be in it.

Validated wherever it is made, so an impossible one does not exist. Must not know SQL, HTTP, asyncio or config.
"""

import re
import shlex
from typing import Annotated, Any, Final, Literal, Self

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
from shellrunner.clock import Millis, format_rfc3339, parse_rfc3339

MAX_ARGUMENT: Final = 131_071  # bytes of one argument or variable: MAX_ARG_STRLEN less its NUL (execve(2))
MAX_COUNT: Final = {"argv": 16_384, "env": 4_096}  # arguments and variables
MAX_UNKNOWN: Final = 100  # unknown keys that are told
MAX_LABELS: Final = 32
MAX_LABEL: Final = 255  # characters of a label's value
MAX_AFTER: Final = 100  # jobs that one may wait for
MAX_URL: Final = 2048
MAX_TIMEOUT: Final = 10 * 365 * 86_400.0  # seconds; ten years, well inside what poll(2) and time_t can hold


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    if len(text.encode()) > MAX_ARGUMENT:
        raise ValueError(f"must be at most {MAX_ARGUMENT} bytes of UTF-8")
    return text


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("is not a variable's name: empty, or has '=' or NUL in it")
    if name in _OURS:
        raise ValueError("is set by the service")
    return name


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path")
    return path


def _instant(text: str) -> str:
    """Return the time in UTC with milliseconds, rounded up: nothing starts before it was asked to."""
    try:
        return format_rfc3339(parse_rfc3339(text))
    except ValueError:
        raise ValueError("must be an RFC 3339 time with its zone, such as 2026-11-24T15:31:42Z") from None


def _target(url: str) -> str:
    match = _URL.fullmatch(url)
    if match is None or len(url) > MAX_URL:
        raise ValueError(f"must be an http or https URL of at most {MAX_URL} characters, without user or fragment")
    return url


def _shape(**keywords: Any) -> Any:
    """What JSON Schema can say of a rule that a validator keeps."""
    return Field(json_schema_extra=keywords)


def _says(words: str) -> Any:
    """What a key means, for who reads the API's document."""
    return Field(description=words)


_NO_NUL = r"^[^\u0000]*$"
Argument = Annotated[str, AfterValidator(_argument), _shape(maxLength=MAX_ARGUMENT, pattern=_NO_NUL)]
Charset = Annotated[str, AfterValidator(charsets.canonical), _shape(enum=sorted(charsets.CHARSETS))]
Instant = Annotated[
    str,
    AfterValidator(_instant),
    _shape(format="date-time", pattern=r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"),
]
_NAME = r"^[A-Za-z0-9._-]{1,63}$"
Name = Annotated[str, StringConstraints(pattern=_NAME)]
JobId = Annotated[int, Field(ge=1, le=10**18 - 1)]


# ASCII throughout: in small letters, the Kelvin sign would be the k of a host that config names.
_URL = re.compile(r"https?://(?P<host>(?:(?![/?#@\\])[!-~])+)(?:[/?][!-\"$-~]*)?", re.ASCII | re.IGNORECASE)

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
    """What the job may use; `None` means: as config says. All but `output_bytes` are setrlimit(2)'s."""

    memory_bytes: int | None = Field(None, ge=1, le=2**62, description="address space of each process (RLIMIT_AS)")
    cpu_seconds: int | None = Field(None, ge=1, le=2**31, description="CPU time of each process (RLIMIT_CPU)")
    processes: int | None = Field(
        None, ge=1, le=2**31, description="processes of the job's user, not of the job alone (RLIMIT_NPROC)"
    )
    open_files: int | None = Field(None, ge=8, le=2**20, description="open files of each process (RLIMIT_NOFILE)")
    output_bytes: int | None = Field(
        None, ge=1, le=2**62, description="both streams together, as stored; over it the job is ended"
    )


class Streamed(_Request):
    """Standard input that is sent while the job runs."""

    stream: Literal[True]


class Terminal(_Request):
    """The size of the pseudo-terminal that a job has."""

    rows: int = Field(24, ge=1, le=65_535)
    columns: int = Field(80, ge=1, le=65_535)


class SignalRequest(_Request):
    """A signal for a running command, by its name; which there are is the kernel's matter."""

    signal: Annotated[str, _shape(maxLength=32)] = Field(description="SIGHUP, SIGRTMIN+3, … (signal(7))")


# Endings after which a submitter may have another attempt made.
Repeatable = Literal["exited", "signalled", "timed_out", "output_limit", "out_of_memory", "failed_to_start", "lost"]


class Retries(_Request):
    """Further attempts: at most `max`, each `delay` seconds after one whose ending is in `on`."""

    max: int = Field(ge=1, le=1000)
    delay: float = Field(0.0, ge=0, le=30 * 86_400.0, description="seconds between an attempt's end and the next")
    on: tuple[Repeatable, ...] = Field(
        ("exited",), min_length=1, max_length=7, strict=False, description="`exited` means: not with 0"
    )


class Notify(_Request):
    """Where the result is sent once it is recorded."""

    url: Annotated[str, AfterValidator(_target), _shape(format="uri", maxLength=MAX_URL)]

    @property
    def host(self) -> str:
        """The URL's host, in small letters, with the port if one is named."""
        match = _URL.fullmatch(self.url)
        assert match is not None  # noqa: S101  it was validated
        return match["host"].lower()


_Line = Annotated[Argument, StringConstraints(min_length=1)]
_Words = Annotated[
    tuple[Argument, ...],
    Field(min_length=1, max_length=MAX_COUNT["argv"], strict=False),
    _shape(prefixItems=[{"type": "string", "minLength": 1, "maxLength": MAX_ARGUMENT, "pattern": _NO_NUL}]),
]
_Text = Annotated[str, _shape(maxLength=1 << 20)]  # what a body has room for
_Path = Annotated[Argument, AfterValidator(_absolute), _shape(pattern=r"^/[^\u0000]*$")]
_Variables = Annotated[
    dict[Annotated[str, AfterValidator(_variable)], Argument],
    _shape(
        maxProperties=MAX_COUNT["env"],
        propertyNames={"pattern": r"^[^=\u0000]+$", "not": {"enum": [*_OURS]}},
        additionalProperties={"type": "string", "maxLength": MAX_ARGUMENT, "pattern": _NO_NUL},
    ),
]
_Labels = Annotated[
    dict[Name, Annotated[str, StringConstraints(max_length=MAX_LABEL)]],
    Field(max_length=MAX_LABELS),
    _shape(patternProperties={_NAME: {"type": "string", "maxLength": MAX_LABEL}}, additionalProperties=False),
]
_Jobs = Annotated[tuple[JobId, ...], Field(max_length=MAX_AFTER, strict=False)]


class JobSpec(_Request):
    """What was asked for: exactly one of `command` (run by the shell) and `argv` (run as it is)."""

    command: Annotated[_Line | None, _says("a line for the shell; at most 131,071 bytes of UTF-8")] = None
    argv: Annotated[_Words | None, _says("words run without a shell, the first sought in the job's PATH")] = None
    cwd: Annotated[_Path | None, _says("where it starts; if absent, as config says")] = None
    env: Annotated[_Variables, _says("added to the job's environment; values are never shown again")] = Field(
        default_factory=dict
    )
    stdin: Annotated[_Text | Streamed | None, _says("text for standard input, or that it is sent later")] = None
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT, description="seconds from its start until it is ended")
    priority: int = Field(0, ge=-1000, le=1000, description="larger first, then oldest first")
    queue: Annotated[Name, _says("one that config names")] = "default"
    labels: Annotated[_Labels, _says("to search by")] = Field(default_factory=dict)
    merge_stderr: Annotated[bool, _says("stderr goes into stdout")] = False
    leave_children: Annotated[bool | None, _says("what it leaves behind is let go; if absent, as config says")] = None
    encoding: Annotated[Charset, _says("the charset in which its output is shown, by any of its names")] = "utf-8"
    limits: Limits = Limits()
    after: Annotated[_Jobs, _says("jobs that must all have exited with 0, else this one is skipped")] = ()
    start_at: Annotated[Instant | None, _says("before this it does not start")] = None
    retries: Retries | None = None
    notify: Notify | None = None
    tty: Annotated[Terminal | None, _says("`true` is a pseudo-terminal of the usual size")] = None

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
    def _yes_or_size(cls, given: Any) -> Any:
        if isinstance(given, bool):
            return Terminal() if given else None
        return given

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
            if len(name.encode()) + len(value.encode()) >= MAX_ARGUMENT:
                raise ValueError(f"{name[:100]} and its value must be less than {MAX_ARGUMENT} bytes of UTF-8")
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

    @property
    def earliest(self) -> "Millis | None":
        """Before this it does not start."""
        if self.start_at is None:
            return None
        return parse_rfc3339(self.start_at)

    def redacted(self) -> Self:
        """The same without secrets: the values of `env` blank, the text of `stdin` gone."""
        stdin = self.stdin if isinstance(self.stdin, Streamed) else None
        return self.model_copy(update={"env": dict.fromkeys(self.env, ""), "stdin": stdin})
