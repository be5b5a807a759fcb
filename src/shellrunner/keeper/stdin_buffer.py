"""What is sent to a command's standard input while it runs: taken up to a bound, written as the command reads.

Owned by what is being kept; outlives the server. Must not know messages, or who sends.
"""

import os

ROOM = 1 << 20  # bytes that are held for a command that does not read them yet
_PIECE = 65_536  # bytes written at once: what a pipe holds


class StdinBuffer:
    """The write end of a command's input. `offset` counts what was taken in all."""

    due: float | None = None  # when `look` has something to do

    def __init__(self, sink: int, given: bytes = b"", *, is_open: bool) -> None:
        """Write `given` to `sink` (nonblocking), and what is taken later if the input is open."""
        self.sink, self.offset, self.is_open = sink, len(given), is_open
        self._pending = bytearray(given)

    def take(self, offset: int | None, data: bytes, *, end: bool) -> str | None:
        """Take all of `data`, and perhaps the end of the input; or none of it, and say why (see `messages`)."""
        if offset is not None and offset != self.offset:
            return "offset"
        if not self.is_open:
            return "closed"
        if len(self._pending) + len(data) > ROOM:
            return "full"
        self.offset += len(data)
        self.is_open = not end
        if self.sink >= 0:
            self._pending += data
        return None

    @property
    def waiting(self) -> bool:
        """Whether something is to be written once the command has read what was written before."""
        return bool(self._pending)

    def write(self) -> None:
        """Write what there is room for; after the last of it, let the command see the end."""
        if self.sink < 0:
            return
        while self._pending:
            try:
                written = os.write(self.sink, self._pending[:_PIECE])
            except BlockingIOError:
                return
            except OSError:  # EPIPE: the command reads no more, and what it does not want is nobody's error
                self._pending.clear()
                self.close()
                return
            del self._pending[:written]
        if not self.is_open:
            self.finish()

    def finish(self) -> None:
        """All is written and nothing will follow."""
        self.close()

    def look(self) -> None:
        """Do what is `due`."""

    def close(self) -> None:
        """Let go of the descriptor; a second time is none."""
        sink, self.sink = self.sink, -1
        if sink >= 0:
            os.close(sink)
