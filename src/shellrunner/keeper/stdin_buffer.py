"""A command's streamed standard input: a bounded buffer, written as the command reads.

Owned by the running command; outlives the server. Must not know messages, or who sends.
"""

import errno
import os
import time
from contextlib import suppress

CAPACITY = 1 << 20  # bytes held for a command that has not read them yet
_CHUNK_SIZE = 65_536  # bytes written at once: what a pipe holds
_RETRY_DELAY = 0.05  # seconds after a write that failed although somebody may read


class StdinBuffer:
    """The write end of a command's input. `offset` is the number of bytes accepted so far."""

    _GONE: tuple[int, ...] = (errno.EPIPE,)  # errors of write(2) that say that the command reads no more
    due: float | None = None  # when `poll` has something to do (time.monotonic())

    def __init__(self, sink: int, initial: bytes = b"", *, is_open: bool) -> None:
        """Write `initial` to `sink` (a nonblocking descriptor), and what is accepted later if the input is open."""
        self.sink, self.offset, self.is_open = sink, len(initial), is_open
        self._pending = bytearray(initial)

    def accept(self, offset: int | None, data: bytes, *, end: bool) -> str | None:
        """Accept all of `data`, and the end of the input if `end`; or nothing, and return why (see `protocol`)."""
        if offset is not None and offset != self.offset:
            return "offset"
        if not self.is_open:
            return "closed"
        if len(self._pending) + len(data) > CAPACITY:
            return "full"
        self.offset += len(data)
        self.is_open = not end
        if self.sink >= 0:
            self._pending += data
        return None

    @property
    def has_pending(self) -> bool:
        """Whether there is something to write once the command has read more."""
        return bool(self._pending) and self.due is None

    def write(self) -> None:
        """Write as much as fits; after the last of it, signal the end of the input."""
        if self.sink < 0:
            return
        while self._pending:
            try:
                written = os.write(self.sink, self._pending[:_CHUNK_SIZE])
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in self._GONE:
                    self._pending.clear()
                    self.close()
                else:  # ENOMEM, for example: what was accepted is still to be written
                    self.due = time.monotonic() + _RETRY_DELAY
                return
            del self._pending[:written]
        if not self.is_open:
            self.signal_end()

    def signal_end(self) -> None:
        """Let the command read the end of its input: everything is written, and nothing will follow."""
        self.close()

    def poll(self) -> None:
        """Do what is `due`: write again what could not be written, from time to time."""
        self.due = None
        self.write()
        if self._pending:
            self.due = time.monotonic() + _RETRY_DELAY

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        sink, self.sink = self.sink, -1
        if sink >= 0:
            with suppress(OSError):
                os.close(sink)
