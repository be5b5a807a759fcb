"""Streams that outlive their connections: from the place that was reached, however often one breaks.

Generators over a `Transport`. Must not know who reads them.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from shellrunner.client import events
from shellrunner.client.client_error import INTERRUPTED, ClientError
from shellrunner.client.events import BytesDropped, Change, Event, JobEnded, Message, OutputReceived, StatusChanged
from shellrunner.client.transport import Transport, Tries

# What refuses a request ends no stream: the job goes on meanwhile.
_BEARS: Final = frozenset({"store-unavailable", "not-ready"})


async def follow(connection: Transport, job_id: int, after: str) -> AsyncGenerator[Event, None]:
    """Every event of a job, each once, to its end."""
    told = _Told()
    path = f"/api/statuses/{job_id}/events?encoding=base64"
    async for message in _unbroken(connection, path, after):
        event = events.event(message)
        if event is not None and told.is_news(event):
            yield event
        if isinstance(event, JobEnded):
            return


async def changes(connection: Transport, after: str) -> AsyncGenerator[Change, None]:
    """Every change of a status, without end."""
    async for message in _unbroken(connection, "/api/statuses/events", after):
        change = events.change(message)
        if change is not None:
            yield change


async def pieces(connection: Transport, path: str) -> AsyncIterator[bytes]:
    """The bytes that lie at `path` and no longer change."""
    have, tries = 0, Tries(connection)
    while True:
        rest = {"Range": f"bytes={have}-"} if have else {}
        try:
            async with connection.answer("GET", path, headers=rest) as response:
                async for piece in response.content.iter_any():
                    have += len(piece)
                    tries.succeeded()
                    yield piece
                return
        except ClientError as error:
            if have and error.status == 416:  # it broke after the last byte
                return
            await tries.wait_or_raise(error)


class _Told:
    """What of a stream was told already: each connection begins with how the job stands."""

    def __init__(self) -> None:
        self._status: object = None
        self._dropped = {"stdout": 0, "stderr": 0}

    def is_news(self, event: Event) -> bool:
        match event:
            case StatusChanged(status):
                known, self._status = self._status, status
                return status != known
            case BytesDropped(stream, count):
                before, self._dropped[stream] = self._dropped[stream], max(count, self._dropped[stream])
                return count > before
            case OutputReceived() | JobEnded():
                return True


async def _unbroken(connection: Transport, path: str, place: str) -> AsyncGenerator[Message, None]:
    tries = Tries(connection, _BEARS)
    while True:
        try:
            async with connection.answer("GET", path, headers={"Last-Event-ID": place} if place else {}) as response:
                if response.status == 204:
                    return
                reader = events.Reader()
                async for data in response.content.iter_any():
                    for message in reader.feed(data):
                        tries.succeeded()
                        place = message.id or place
                        yield message
        except ClientError as error:
            await tries.wait_or_raise(error)
        else:  # a shutdown ended it, before its last event: the next server goes on with it
            await tries.wait_or_raise(ClientError(f"{connection.place} ended the stream", kind=INTERRUPTED))
