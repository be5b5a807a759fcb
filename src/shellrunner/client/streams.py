"""Streams that survive broken connections: each is resumed at the position that was reached.

Generators over a `Transport`. Must not know who consumes them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final, TypeVar

from shellrunner.client.client_error import FOREIGN, INTERRUPTED, ClientError
from shellrunner.client.events import (
    BytesDropped,
    Change,
    Event,
    JobEnded,
    OutputReceived,
    StatusChanged,
    decode_change,
    decode_job_event,
)
from shellrunner.client.retry import Retry
from shellrunner.client.sse_parser import ServerSentEvent, SseParser
from shellrunner.client.transport import Transport

T = TypeVar("T")

# These refuse one request, but do not end the stream: the job goes on meanwhile.
_TRANSIENT_KINDS: Final = frozenset({"store-unavailable", "no-space", "not-ready"})


async def follow(transport: Transport, job_id: int, after: str) -> AsyncGenerator[Event, None]:
    """Yield every event of a job once, until it is done."""
    duplicates = _DuplicateFilter()
    path = f"/api/statuses/{job_id}/events?encoding=base64"
    events: AsyncGenerator[Event, None] = _resumed_events(transport, path, after, decode_job_event)
    async for event in events:
        if duplicates.is_new(event):
            yield event
        if isinstance(event, JobEnded):
            return


async def changes(transport: Transport, after: str) -> AsyncGenerator[Change, None]:
    """Yield every change of a status, without end."""
    events: AsyncGenerator[Change, None] = _resumed_events(transport, "/api/statuses/events", after, decode_change)
    async for change in events:
        yield change


async def download(transport: Transport, path: str) -> AsyncIterator[bytes]:
    """Yield the bytes at `path`, which must not change any more."""
    received, retry = 0, Retry(transport)
    while True:
        headers = {"Range": f"bytes={received}-"} if received else {}
        try:
            async with transport.response("GET", path, headers=headers) as response:
                async for chunk in response.content.iter_any():
                    received += len(chunk)
                    retry.reset()
                    yield chunk
                return
        except ClientError as error:
            if received and error.status == 416:  # the connection broke after the last byte
                return
            await retry.wait_or_raise(error)


class _DuplicateFilter:
    """Recognizes events without a position, which the server repeats at the start of each connection."""

    def __init__(self) -> None:
        self._status: object = None
        self._dropped = {"stdout": 0, "stderr": 0}

    def is_new(self, event: Event) -> bool:
        match event:
            case StatusChanged(status):
                previous, self._status = self._status, status
                return status != previous
            case BytesDropped(stream, count):
                before, self._dropped[stream] = self._dropped[stream], max(count, self._dropped[stream])
                return count > before
            case OutputReceived() | JobEnded():
                return True


async def _resumed_events(
    transport: Transport, path: str, last_event_id: str, decode: Callable[[ServerSentEvent], T | None]
) -> AsyncGenerator[T, None]:
    retry = Retry(transport, _TRANSIENT_KINDS)
    while True:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        parser = SseParser(last_event_id)
        try:
            async with transport.response("GET", path, headers=headers) as response:
                if response.status == 204:
                    return
                async for chunk in response.content.iter_any():
                    for event in parser.feed(chunk):
                        retry.reset()
                        decoded = _decoded(event, decode, transport)
                        if decoded is not None:
                            yield decoded
        except ClientError as caught:
            error = caught
        else:  # a server that shuts down ends the stream before its last event: the next server continues it
            error = ClientError(f"{transport.address} ended the stream", kind=INTERRUPTED)
        last_event_id = parser.last_event_id
        await retry.wait_or_raise(error)


def _decoded(event: ServerSentEvent, decode: Callable[[ServerSentEvent], T | None], transport: Transport) -> T | None:
    try:
        return decode(event)
    except (ValueError, LookupError, TypeError) as error:
        detail = f"the event {event.event!r} from {transport.address} is not shellrunner's: check the address"
        raise ClientError(detail, kind=FOREIGN) from error
