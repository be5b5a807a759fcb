"""An incremental parser of server-sent events: bytes in, events out.

Follows the HTML standard, "Server-sent events": 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event
stream". Pure, with bounded memory. Must not know sockets, or which events the server sends.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from shellrunner.client.client_error import FOREIGN, ClientError

MAX_EVENT_SIZE: Final = 1 << 24  # bytes; the server's largest events hold a command of at most 1 MiB, escaped as JSON
_BOM: Final = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event; `id` is the last event id so far, which may have been set by an earlier event."""

    event: str
    data: str
    id: str


class SseParser:
    """Parses the bytes of one connection, however they are split into chunks.

    `last_event_id` is what `Last-Event-ID` has to be on the next connection. An event that is incomplete when the
    connection ends is dropped, as the standard requires: the server sends it again.
    """

    def __init__(self, last_event_id: str = "") -> None:
        """Start a connection; `last_event_id` is that of the previous one."""
        self.last_event_id = last_event_id
        self._id = last_event_id
        self._event = ""
        self._data: list[str] = []
        self._data_size = 0
        self._line = bytearray()  # the beginning of a line whose end has not arrived yet
        self._is_first_line = True
        self._skip_lf = False  # the last chunk ended with CR: a LF would be the second half of a CRLF

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that end in `chunk`.

        Raises:
            ClientError: an event is longer than `MAX_EVENT_SIZE`.
        """
        for line in self._complete_lines(chunk):
            if line:
                self._process_field(line)
            elif event := self._dispatch():
                yield event
        self._check_size()

    def _complete_lines(self, chunk: bytes) -> list[bytes]:
        """Return the lines that end in `chunk`, and keep the beginning of the one that does not."""
        if not chunk:
            return []
        if self._skip_lf:
            chunk = chunk.removeprefix(b"\n")
        self._skip_lf = chunk.endswith(b"\r")
        lines = chunk.splitlines()  # of bytes: at CR, LF and CRLF, and nothing else
        rest = b"" if not lines or chunk.endswith((b"\n", b"\r")) else lines.pop()
        if lines:
            if self._line:
                lines[0] = bytes(self._line) + lines[0]
                self._line.clear()
            if self._is_first_line:
                lines[0] = lines[0].removeprefix(_BOM)
                self._is_first_line = False
        self._line += rest
        return lines

    def _process_field(self, line: bytes) -> None:
        # A line that begins with a colon is a comment: its field has no name, and is ignored like all unknown ones.
        # `retry` is ignored too: reconnecting is left to `Retry`, whose backoff begins sooner and grows.
        name, _, rest = line.partition(b":")
        value = rest.removeprefix(b" ").decode(errors="replace")
        if name == b"data":
            self._data.append(value)
            self._data_size += len(line)
            self._check_size()
        elif name == b"event":
            self._event = value
        elif name == b"id" and "\0" not in value:
            self._id = value

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_event_id = self._id
        event, data = self._event, self._data
        self._event, self._data, self._data_size = "", [], 0
        return ServerSentEvent(event or "message", "\n".join(data), self._id) if data else None

    def _check_size(self) -> None:
        if len(self._line) + self._data_size > MAX_EVENT_SIZE:
            raise ClientError(f"the server sent an event of more than {MAX_EVENT_SIZE} bytes", kind=FOREIGN)
