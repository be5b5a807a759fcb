"""Output as server-sent events, and the event id from which a stream resumes to the byte.

Pure functions; the format is API.md's section 3 and the HTML standard's "Server-sent events". Must not know
sockets, or where the output is stored.
"""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from json.encoder import encode_basestring as quote
from typing import Any, NamedTuple, Protocol, Self

from shellrunner.clock import Millis, format_rfc3339
from shellrunner.model import Stream
from shellrunner.wire.json_codec import dumps
from shellrunner.wire.text import Decoder

HEARTBEAT = b":\n\n"
RETRY = b"retry: 2000\n"
END = "end"  # the id of the last event
COALESCED = 50  # milliseconds of output, at most, in one event

_ID = re.compile(r"(0|[1-9][0-9]{0,18})(?:\.([0-8])\.([0-8]))?", re.ASCII)


class Piece(Protocol):
    """A piece of output as it arrived (the store's extents are such)."""

    @property
    def position(self) -> int: ...
    @property
    def stream(self) -> Stream: ...
    @property
    def time(self) -> Millis: ...
    @property
    def data(self) -> bytes: ...


class Cursor(NamedTuple):
    """What a reader has: all before `position`, but for the last `stdout` and `stderr` bytes of each stream.

    Those are the beginnings of characters, held back until the character is complete.
    """

    position: int = 0
    stdout: int = 0
    stderr: int = 0

    def __str__(self) -> str:
        """The event id."""
        held = f".{self.stdout}.{self.stderr}" if self.stdout or self.stderr else ""
        return f"{self.position}{held}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an event id.

        Raises:
            ValueError: no stream gives such an id.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError("is no event id of this stream: P or P.a.b")
        cursor = cls(*(int(number or 0) for number in match.groups()))
        if cursor.stdout + cursor.stderr > cursor.position:
            raise ValueError("holds back more than there was")
        return cursor

    def held(self, stream: Stream) -> int:
        """How many bytes of this stream are held back."""
        return self.stdout if stream is Stream.STDOUT else self.stderr


class Framer(Protocol):
    """Turns output into events. Feeding it the bytes that its cursor holds back makes it whole again."""

    def resume(self, stream: Stream, held: bytes) -> bool:
        """Take the bytes held back; false if they are no beginning of a character."""

    def events(self, pieces: Iterable[Piece]) -> bytes:
        """The events of output that follows."""

    def rest(self, time: Millis) -> bytes:
        """The events of what is unfinished at the end."""

    @property
    def cursor(self) -> Cursor:
        """What a reader of all events so far has."""


class TextFramer:
    """Output as text: a character is never split, whatever cut it."""

    def __init__(self, charset: str, position: int) -> None:
        """Start at `position` with nothing held back."""
        self._decoders = {stream: Decoder(charset) for stream in Stream}
        self._position = position

    @property
    def cursor(self) -> Cursor:
        """See `Framer`."""
        return Cursor(self._position, *(decoder.held for decoder in self._decoders.values()))

    def resume(self, stream: Stream, held: bytes) -> bool:
        """See `Framer`."""
        return not self._decoders[stream].feed(held) and self._decoders[stream].held == len(held)

    def events(self, pieces: Iterable[Piece]) -> bytes:
        """See `Framer`."""
        return b"".join(map(self._event, runs(pieces)))

    def rest(self, time: Millis) -> bytes:
        """See `Framer`."""
        return b"".join(
            self._text(stream, decoder.flush(), time) for stream, decoder in self._decoders.items() if decoder.held
        )

    def _event(self, run: "Run") -> bytes:
        text = self._decoders[run.stream].feed(run.data)
        self._position = run.end
        return self._text(run.stream, text, run.time) if text else b""

    def _text(self, stream: Stream, text: str, time: Millis) -> bytes:
        # `quote` escapes CR and LF, the only ends of a line that the format knows: output cannot forge a field.
        data = f'{{"text":{quote(text)},"time":"{format_rfc3339(time)}"}}'
        return f"event: {stream}\nid: {self.cursor}\ndata: {data}\n\n".encode()


class Base64Framer:
    """Output as its bytes: nothing is ever held back."""

    def __init__(self, position: int) -> None:
        """Start at `position`."""
        self.cursor = Cursor(position)

    def resume(self, stream: Stream, held: bytes) -> bool:
        """See `Framer`."""
        return not held

    def events(self, pieces: Iterable[Piece]) -> bytes:
        """See `Framer`."""
        return b"".join(map(self._event, runs(pieces)))

    def rest(self, time: Millis) -> bytes:
        """See `Framer`."""
        return b""

    def _event(self, run: "Run") -> bytes:
        self.cursor = Cursor(run.end)
        data = f'{{"base64":"{b64encode(run.data).decode()}","time":"{format_rfc3339(run.time)}"}}'
        return f"event: {run.stream}\nid: {run.end}\ndata: {data}\n\n".encode()


class Run(NamedTuple):
    """Pieces of one stream that are told in one event."""

    stream: Stream
    time: Millis
    end: int
    data: bytes


def runs(pieces: Iterable[Piece]) -> Iterator[Run]:
    """Join what follows each other: one stream's, of at most 50 ms."""
    for stream, same in groupby(pieces, key=lambda piece: piece.stream):
        yield from _runs(stream, list(same))


def _runs(stream: Stream, pieces: Sequence[Piece]) -> Iterator[Run]:
    first = 0
    for number, piece in enumerate(pieces):
        if piece.time - pieces[first].time > COALESCED:
            yield _run(stream, pieces[first:number])
            first = number
    yield _run(stream, pieces[first:])


def _run(stream: Stream, pieces: Sequence[Piece]) -> Run:
    last = pieces[-1]
    end = last.position + len(last.data)
    return Run(stream, pieces[0].time, end, b"".join(piece.data for piece in pieces))


def event(name: str, document: Any, *, event_id: str | None = None) -> bytes:
    """One event that is not output; without an id, the reader's place in the output stays as it is."""
    place = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {name}\n{place}data: ".encode() + dumps(document) + b"\n"
