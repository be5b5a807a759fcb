"""What the events of a stream tell: which keys the data of each has.

Types alone, as `documents` has those of the resources. Must not know how a stream is written.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on only

from shellrunner.wire.documents import Count, EndingName, ExitCode, Id, Instant, Link, Seconds, Signal, closed


@closed
class OutputEvent(TypedDict):
    """A piece of output as events tell it: as text, or as its bytes with `encoding=base64`."""

    text: NotRequired[str]
    base64: NotRequired[Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]]
    time: Instant


@closed
class DroppedEvent(TypedDict):
    """Output that could not be stored so far."""

    stream: Literal["stdout", "stderr"]
    bytes: Count


@closed
class DoneEvent(TypedDict):
    """What the last event of a stream says."""

    result: Link | None
    ending: EndingName
    exit_code: ExitCode
    signal: Signal
    duration: Seconds | None
    completed: Instant


@closed
class DeletedEvent(TypedDict):
    """A job that is no more, as the stream of all changes tells it."""

    status_id: Id


@closed
class ResetEvent(TypedDict):
    """Nothing: the reader's place in the stream of all changes is unknown, and the list is to be read anew."""
