"""The data of server-sent events: which keys each event has.

Types only, as in `documents`, and described in the OpenAPI document as those are. Must not know how a stream is
written.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on only

from shellrunner.wire.field_types import (
    Count,
    EndingName,
    ExitCode,
    Id,
    Instant,
    Link,
    Seconds,
    Signal,
    Small,
    closed,
)


@closed
class OutputEvent(TypedDict):
    """A piece of output: as text, or with `encoding=base64` as its exact bytes."""

    text: NotRequired[str]
    base64: NotRequired[Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]]
    time: Instant


@closed
class DroppedEvent(TypedDict):
    """How many bytes of a stream were not stored so far, or are missing; with an id where a stretch is missing."""

    stream: Literal["stdout", "stderr"]
    bytes: Count
    missing: NotRequired[Count]
    """How many of them were stored, but are missing now: a file was cut, lost or damaged."""


@closed
class AttemptEvent(TypedDict):
    """How an attempt ended, if another one follows; it comes between the output of the two, with an id."""

    attempt: Small
    max_attempts: Small
    """How many there are at most, as submitted."""
    result: Link
    ending: EndingName
    exit_code: ExitCode
    signal: Signal
    duration: Seconds | None
    completed: Instant


@closed
class DoneEvent(TypedDict):
    """How the job ended; the last event of its stream."""

    result: Link | None
    ending: EndingName
    exit_code: ExitCode
    signal: Signal
    duration: Seconds | None
    completed: Instant


@closed
class DeletedEvent(TypedDict):
    """A job was deleted."""

    status_id: Id


@closed
class ResetEvent(TypedDict):
    """The event id is unknown or too old: read the list again, then continue with this stream."""
