"""Streams that survive broken connections: each is resumed at the position that was reached.

Generators over a `Requester`. Must not know who consumes them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import urlencode

from shellrunner.client.client_error import FOREIGN, INTERRUPTED, ClientError
from shellrunner.client.events import (
    AttemptEnded,
    BytesDropped,
    Change,
    Event,
    JobEnded,
    OutputReceived,
    StatusChanged,
    decode_change,
    decode_job_event,
)
from shellrunner.client.requester import Requester
from shellrunner.client.retry import Retry
from shellrunner.client.sse_parser import ServerSentEvent, SseParser

T = TypeVar("T")
Query = Mapping[str, str | int | None]

# These refuse one request, but do not end the stream: the job goes on meanwhile.
_TRANSIENT_KINDS: Final = frozenset({"store-unavailable", "no-space", "not-ready"})
_STABLE_TIME: Final = 10.0  # seconds after which a connection that breaks begins a new series of errors


async def follow(
    requester: Requester, job_id: int, after: str, writer: str | None = None
) -> AsyncGenerator[Event, None]:
    """Yield every event of a job once, until it is done."""
    duplicates = _DuplicateFilter()
    path = f"/api/statuses/{job_id}/events?encoding=base64" + (f"&writer={writer}" if writer else "")
    events: AsyncGenerator[Event, None] = _resumed_events(requester, path, after, decode_job_event)
    async for event in events:
        if duplicates.is_new(event):
            yield event
        if isinstance(event, JobEnded):
            return


async def changes(requester: Requester, after: str) -> AsyncGenerator[Change, None]:
    """Yield every change of a status, without end."""
    events: AsyncGenerator[Change, None] = _resumed_events(requester, "/api/statuses/events", after, decode_change)
    async for change in events:
        yield change


async def download(requester: Requester, path: str) -> AsyncIterator[bytes]:
    """Yield the bytes at `path`, which must not change any more."""
    received, retry = 0, Retry(requester)
    while True:
        headers = {"Range": f"bytes={received}-"} if received else {}
        try:
            async with requester.response("GET", path, headers=headers) as response:
                async for chunk in response.chunks():
                    received += len(chunk)
                    retry.reset()
                    yield chunk
                return
        except ClientError as error:
            if received and error.status == 416:  # the connection broke after the last byte
                return
            await retry.wait_or_raise(error)


async def read_tail(requester: Requester, job_id: int, query: Query) -> AsyncGenerator[bytes, None]:
    """Yield the last lines of a job's output; they are others a moment later, so this is not resumed."""
    async with requester.response("GET", output_path(job_id, query)) as response:
        async for chunk in response.chunks():
            yield chunk


async def read_output(requester: Requester, job_id: int, query: Query, start: int) -> AsyncGenerator[bytes, None]:
    """Yield the output of a job as it is now, from a byte on; a connection that breaks is resumed."""
    retry = Retry(requester, _TRANSIENT_KINDS)
    while True:
        try:
            async with requester.response("GET", output_path(job_id, {**query, "from": start})) as response:
                async for chunk in response.chunks():
                    start += len(chunk)
                    retry.reset()
                    yield chunk
                return
        except ClientError as error:
            await retry.wait_or_raise(error)


async def follow_output(requester: Requester, job_id: int, query: Query, start: int) -> AsyncGenerator[bytes, None]:
    """Yield the output of a job until it is done, as above.

    Silence is no error: plain bytes have no heartbeats, so a connection that is silent for long is made again. A
    proxy may turn a cut into a regular end: it is believed only if the job is done, and nothing more is there.
    """
    retry = Retry(requester, _TRANSIENT_KINDS)
    while True:
        connected = requester.time()
        try:
            path = output_path(job_id, {**query, "from": start, "follow": "true"})
            async with requester.response("GET", path) as response:
                async for chunk in response.chunks():
                    start += len(chunk)
                    retry.reset()
                    yield chunk
            status = await requester.request("GET", f"/api/statuses/{job_id}", has="done")
            if status["done"] and not await requester.content_length(output_path(job_id, {**query, "from": start})):
                return
            error = ClientError(f"{requester.address} ended the output before the job", kind=INTERRUPTED)
        except ClientError as caught:
            error = caught
        if requester.time() - connected > _STABLE_TIME:
            retry.reset()
        await retry.wait_or_raise(error)


def output_path(job_id: int, query: Query) -> str:
    """Return the path of a job's output as plain text."""
    given = urlencode({name: value for name, value in query.items() if value is not None})
    return f"/api/statuses/{job_id}/output{f'?{given}' if given else ''}"


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
            case BytesDropped(stream=stream, bytes=count):
                before, self._dropped[stream] = self._dropped[stream], max(count, self._dropped[stream])
                return count > before
            case OutputReceived() | AttemptEnded() | JobEnded():
                return True


async def _resumed_events(
    requester: Requester, path: str, last_event_id: str, decode: Callable[[ServerSentEvent], T | None]
) -> AsyncGenerator[T, None]:
    retry = Retry(requester, _TRANSIENT_KINDS)
    while True:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        parser = SseParser(last_event_id)
        try:
            async with requester.response("GET", path, headers=headers) as response:
                if response.status == 204:
                    return
                async for chunk in response.chunks():
                    for event in parser.feed(chunk):
                        retry.reset()
                        decoded = _decoded(event, decode, requester)
                        if decoded is not None:
                            yield decoded
        except ClientError as caught:
            error = caught
        else:  # a server that shuts down ends the stream before its last event: the next server continues it
            error = ClientError(f"{requester.address} ended the stream", kind=INTERRUPTED)
        last_event_id = parser.last_event_id
        await retry.wait_or_raise(error)


def _decoded(event: ServerSentEvent, decode: Callable[[ServerSentEvent], T | None], requester: Requester) -> T | None:
    try:
        return decode(event)
    except (ValueError, LookupError, TypeError) as error:
        detail = f"the event {event.event!r} from {requester.address} is not shellrunner's: check the address"
        raise ClientError(detail, kind=FOREIGN) from error
