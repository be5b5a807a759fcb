"""The events of shellrunner's two streams as values: those of one job, and the changes of all statuses.

Pure. Must not know sockets, or how a stream of bytes is parsed.
"""

import json
from base64 import b64decode
from typing import TYPE_CHECKING, Literal, NamedTuple

from shellrunner.client.sse_parser import ServerSentEvent

if TYPE_CHECKING:
    from shellrunner.wire import stream_events
    from shellrunner.wire.documents import Status


class OutputReceived(NamedTuple):
    """Bytes that the command wrote; `id` is the position after them, `time` (RFC 3339) when the keeper read them."""

    stream: Literal["stdout", "stderr"]
    data: bytes
    time: str
    id: str


class StatusChanged(NamedTuple):
    """The current status of a job."""

    status: "Status"


class AttemptEnded(NamedTuple):
    """An attempt of the job ended, and another one follows: what comes next is that one's output.

    `id` is the position in the stream after this event.
    """

    end: "stream_events.AttemptEvent"
    id: str


class BytesDropped(NamedTuple):
    """The total number of bytes of this stream that could not be stored so far, or were and are now `missing`.

    `id` is the position in the output after the last event that has one: where a stretch is missing, the end of it.
    """

    stream: Literal["stdout", "stderr"]
    bytes: int
    id: str = ""
    missing: int = 0


class JobEnded(NamedTuple):
    """The job is done; the last event of its stream."""

    end: "stream_events.DoneEvent"


class JobDeleted(NamedTuple):
    """The job was deleted from the history."""

    job_id: int


class StreamReset(NamedTuple):
    """Changes were missed: a list that is kept up to date by the stream has to be fetched again."""


Event = OutputReceived | StatusChanged | AttemptEnded | BytesDropped | JobEnded
Change = StatusChanged | JobDeleted | StreamReset


def decode_job_event(event: ServerSentEvent) -> Event | None:
    """Decode an event of one job's stream; return None for a type that only later versions know.

    Raises:
        ValueError, LookupError, TypeError: the data is not what the server sends.
    """
    data = json.loads(event.data)
    match event.event:
        case "stdout" | "stderr" as stream:
            return OutputReceived(stream, b64decode(data["base64"]), data["time"], event.id)
        case "status":
            return StatusChanged(data)
        case "attempt":
            return AttemptEnded(data, event.id)
        case "dropped":
            return BytesDropped(data["stream"], data["bytes"], event.id, data.get("missing", 0))
        case "done":
            return JobEnded(data)
    return None


def decode_change(event: ServerSentEvent) -> Change | None:
    """Decode an event of the stream of all changes; return None for a type that only later versions know.

    Raises:
        ValueError, LookupError, TypeError: the data is not what the server sends.
    """
    data = json.loads(event.data)
    match event.event:
        case "status":
            return StatusChanged(data)
        case "deleted":
            return JobDeleted(data["status_id"])
        case "reset":
            return StreamReset()
    return None
