"""Output as server-sent events, and the event id from which a stream resumes at the exact byte.

Pure functions; the format is the HTML standard's, section 9.2 "Server-sent events". Must not know sockets, or where
the output is stored.
The fourth stage of output (the third: the shared read in `web.feeds`): `coalesce` joins pieces into events; next,
`web.feeds.job_feed`.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol, Self

from shellrunner.clock import Millis, format_rfc3339
from shellrunner.model import Stream
from shellrunner.wire.json_codec import dumps, encode
from shellrunner.wire.text import Decoder

HEARTBEAT = b":\n\n"
RETRY = b"retry: 2000\n"
END = "end"  # the id of the last event
MAX_EVENT_SPAN = 50  # milliseconds of output in one event
MAX_EVENT_SIZE = 1 << 16  # bytes of output in one event

_ID = re.compile(r"(0|[1-9][0-9]{0,18})(?:\.([0-8])\.([0-8])|-([1-9][0-9]{0,3}))?", re.ASCII)


class Piece(Protocol):
    """A piece of output as it arrived, such as the store's extents."""

    @property
    def position(self) -> int: ...
    @property
    def stream(self) -> Stream: ...
    @property
    def time(self) -> Millis: ...
    @property
    def data(self) -> bytes: ...


class StreamCursor(NamedTuple):
    """What a reader has: everything before `position` but the last `stdout` and `stderr` bytes of each stream.

    Those are the beginnings of characters, held back until the character is complete. `attempt` is the last one of
    those that ended at this position whose end the reader has; it then holds back nothing.
    """

    position: int = 0
    stdout: int = 0
    stderr: int = 0
    attempt: int = 0

    def __str__(self) -> str:
        """Return the event id."""
        held = f".{self.stdout}.{self.stderr}" if self.stdout or self.stderr else ""
        return f"{self.position}{held}" + (f"-{self.attempt}" if self.attempt else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an event id.

        Raises:
            ValueError: no stream sends such an id.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError("must be an event id of this stream: P, P.a.b or P-n")
        cursor = cls(*(int(number or 0) for number in match.groups()))
        if cursor.stdout + cursor.stderr > cursor.position:
            raise ValueError("holds back more bytes than there were")
        return cursor

    def held(self, stream: Stream) -> int:
        """Return how many bytes of this stream are held back."""
        return self.stdout if stream is Stream.STDOUT else self.stderr


class Framer(Protocol):
    """Turns output into events. To continue after a cursor, resume it with the bytes that the cursor holds back."""

    def resume(self, stream: Stream, held: bytes) -> bool:
        """Take the bytes held back; return false if they do not begin a character."""

    def events(self, pieces: Iterable[Piece]) -> bytes:
        """Return the events of the output that follows."""

    def flush(self, time: Millis) -> bytes:
        """Return the events of what is incomplete at the end of the output."""

    @property
    def cursor(self) -> StreamCursor:
        """The cursor of a reader that received all events so far."""


class TextFramer:
    """Output as text; a character is never split, wherever the output was cut."""

    def __init__(self, charset: str, position: int) -> None:
        """Start at `position` with nothing held back."""
        self._decoders = {stream: Decoder(charset) for stream in Stream}
        self._position = position

    @property
    def cursor(self) -> StreamCursor:
        """See `Framer`."""
        return StreamCursor(self._position, *(decoder.held for decoder in self._decoders.values()))

    def resume(self, stream: Stream, held: bytes) -> bool:
        """See `Framer`."""
        return not self._decoders[stream].feed(held) and self._decoders[stream].held == len(held)

    def events(self, pieces: Iterable[Piece]) -> bytes:
        """See `Framer`."""
        return b"".join(map(self._event, coalesce(pieces)))

    def flush(self, time: Millis) -> bytes:
        """See `Framer`."""
        return b"".join(
            self._text(stream, decoder.flush(), time) for stream, decoder in self._decoders.items() if decoder.held
        )

    def _event(self, chunk: "Chunk") -> bytes:
        text = self._decoders[chunk.stream].feed(chunk.data)
        self._position = chunk.end
        return self._text(chunk.stream, text, chunk.time) if text else b""

    def _text(self, stream: Stream, text: str, time: Millis) -> bytes:
        # JSON escapes CR and LF, the only line ends that the format knows: output cannot forge a field.
        head, tail = f'event: {stream}\nid: {self.cursor}\ndata: {{"text":', f',"time":"{format_rfc3339(time)}"}}\n\n'
        return b"".join((head.encode(), encode(text), tail.encode()))


class Base64Framer:
    """Output as its exact bytes; nothing is ever held back."""

    def __init__(self, position: int) -> None:
        """Start at `position`."""
        self.cursor = StreamCursor(position)

    def resume(self, stream: Stream, held: bytes) -> bool:
        """See `Framer`."""
        return not held

    def events(self, pieces: Iterable[Piece]) -> bytes:
        """See `Framer`."""
        return b"".join(map(self._event, coalesce(pieces)))

    def flush(self, time: Millis) -> bytes:
        """See `Framer`."""
        return b""

    def _event(self, chunk: "Chunk") -> bytes:
        self.cursor = StreamCursor(chunk.end)
        data = f'{{"base64":"{b64encode(chunk.data).decode()}","time":"{format_rfc3339(chunk.time)}"}}'
        return f"event: {chunk.stream}\nid: {chunk.end}\ndata: {data}\n\n".encode()


class Chunk(NamedTuple):
    """Consecutive pieces of one stream that go into one event."""

    stream: Stream
    time: Millis
    end: int
    data: bytes


def coalesce(pieces: Iterable[Piece]) -> Iterator[Chunk]:
    """Join consecutive pieces of one stream that arrived within `MAX_EVENT_SPAN`, up to `MAX_EVENT_SIZE`."""
    for stream, same in groupby(pieces, key=lambda piece: piece.stream):
        for chunk in _coalesce(stream, list(same)):
            yield from _split(chunk)


def _coalesce(stream: Stream, pieces: Sequence[Piece]) -> Iterator[Chunk]:
    first = 0
    for number, piece in enumerate(pieces):
        if piece.time - pieces[first].time > MAX_EVENT_SPAN:
            yield _join(stream, pieces[first:number])
            first = number
    yield _join(stream, pieces[first:])


def _join(stream: Stream, pieces: Sequence[Piece]) -> Chunk:
    last = pieces[-1]
    end = last.position + len(last.data)
    return Chunk(stream, pieces[0].time, end, b"".join(piece.data for piece in pieces))


def _split(chunk: Chunk) -> Iterator[Chunk]:
    size = len(chunk.data)
    if size <= MAX_EVENT_SIZE:
        yield chunk
        return
    for at in range(0, size, MAX_EVENT_SIZE):
        data = chunk.data[at : at + MAX_EVENT_SIZE]
        yield chunk._replace(end=chunk.end - size + at + len(data), data=data)


def event(name: str, document: Any, *, event_id: str | None = None) -> bytes:
    """Return an event that is not output; without an id, the position at which a reader resumes stays as it is."""
    id_line = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {name}\n{id_line}data: ".encode() + dumps(document) + b"\n"
