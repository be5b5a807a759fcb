"""What documents of jobs, their statuses and results contain in more than one place, or in an object of its own.

Types only, as in `documents`, which has them too. Must not know HTTP.
"""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on only

from shellrunner.wire.field_types import (
    Count,
    DeliveryName,
    EndingName,
    ExitCode,
    Instant,
    PendingName,
    Seconds,
    Signal,
    Small,
    closed,
)


@closed
class Limits(TypedDict):
    """What the job may use; null is the default of the configuration."""

    memory_bytes: Count | None
    cpu_seconds: Count | None
    processes: Count | None
    open_files: Count | None
    output_bytes: Count | None


@closed
class Streamed(TypedDict):
    """Standard input that is sent while the job runs."""

    stream: Literal[True]


@closed
class HiddenText(TypedDict):
    """Text for standard input, which is never shown."""

    text: Literal[True]


@closed
class Pending(TypedDict):
    """The first thing that keeps a job waiting."""

    reason: PendingName
    detail: str


@closed
class TerminalSize(TypedDict):
    """The size of a pseudo-terminal, in characters."""

    rows: Small
    columns: Small


@closed
class Terminal(TypedDict):
    """The job's pseudo-terminal: its size at the start, and whether it shows what is typed."""

    rows: Small
    columns: Small
    echo: bool


@closed
class Retries(TypedDict):
    """Further attempts: at most `max`, each `delay` seconds after one whose ending is in `on`."""

    max: Small
    delay: Seconds
    on: Annotated[tuple[EndingName, ...], Field(max_length=7)]


@closed
class Callback(TypedDict):
    """The delivery of the result to the URL that the job named."""

    state: DeliveryName
    tries: Count
    error: str | None
    """Why the last try failed."""


@closed
class Unreachable(TypedDict):
    """The host of a running job is not reachable: whether the job still runs is not known, and not judged."""

    host: str
    since: Instant
    """When it was seen last."""


@closed
class Found(TypedDict):
    """What the host of a `lost` job reported when it returned: how the job had ended in truth."""

    ending: EndingName
    exit_code: ExitCode
    signal: Signal
    completed: Instant
