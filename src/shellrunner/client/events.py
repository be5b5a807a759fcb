"""Server-sent events as values: what a stream of bytes says, and what each of our events means.

Pure; the format is the HTML standard's "Server-sent events" as API.md's section 3 uses it. Must not know sockets.
"""

import json
from base64 import b64decode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from shellrunner.wire import stream_events
    from shellrunner.wire.documents import Status


class Message(NamedTuple):
    """One event as it came."""

    event: str
    data: Any
    id: str | None


class Reader:
    """Takes bytes as they come, however they are cut; gives the events that they complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """The events that end in `data`. What is unfinished when a connection breaks was never said."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        for block in blocks:
            message = _message(block)
            if message is not None:
                yield message


class OutputReceived(NamedTuple):
    """What a command wrote, to the byte; `id` is the place after it, `time` when its keeper read it."""

    stream: Literal["stdout", "stderr"]
    data: bytes
    time: str
    id: str


class StatusChanged(NamedTuple):
    """How a job stands now."""

    status: "Status"


class BytesDropped(NamedTuple):
    """How many bytes of this stream could not be stored, in all so far."""

    stream: Literal["stdout", "stderr"]
    bytes: int


class JobEnded(NamedTuple):
    """The job is done, and this is how; nothing follows."""

    end: "stream_events.DoneEvent"


class JobDeleted(NamedTuple):
    """A job is no more."""

    job_id: int


class StreamReset(NamedTuple):
    """Changes were missed: whoever keeps a list is to read it anew."""


Event = OutputReceived | StatusChanged | BytesDropped | JobEnded
Change = StatusChanged | JobDeleted | StreamReset


def event(message: Message) -> Event | None:
    """What an event of one job's stream means; None for one of a later version."""
    data = message.data
    match message.event:
        case "stdout" | "stderr" as stream:
            return OutputReceived(stream, b64decode(data["base64"]), data["time"], message.id or "")
        case "status":
            return StatusChanged(data)
        case "dropped":
            return BytesDropped(data["stream"], data["bytes"])
        case "done":
            return JobEnded(data)
    return None


def change(message: Message) -> Change | None:
    """What an event of the stream of all changes means; None for one of a later version."""
    match message.event:
        case "status":
            return StatusChanged(message.data)
        case "deleted":
            return JobDeleted(message.data["status_id"])
        case "reset":
            return StreamReset()
    return None


def _message(block: bytes) -> Message | None:
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(":")
        fields[name] = value.removeprefix(" ")
    if "data" not in fields:
        return None
    return Message(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))
