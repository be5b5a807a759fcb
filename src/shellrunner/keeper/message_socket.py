"""One end of a connection on which messages come and go, and on which nobody is ever waited for.

Used by keepers and by the fork server for the server's connection. A server may be stopped (SIGSTOP, a debugger, a
frozen cgroup): what it does not read waits here, so that the deadlines of what is kept are kept too. Must not know
what the messages mean.
"""

import select
import socket
from collections.abc import Iterator

from .protocol import Message, Unpacker, pack


class MessageSocket:
    """A socket, what was received of a message, and what the other side has not taken yet."""

    def __init__(self, connection: socket.socket) -> None:
        """Speak on a connected socket."""
        self._socket = connection
        self._unpacker = Unpacker()
        self._unsent = bytearray()

    def fileno(self) -> int:
        """The descriptor, for poll(2)."""
        return self._socket.fileno()

    @property
    def events(self) -> int:
        """What to wait for: then `flush` and `hear`."""
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def say(self, message: Message) -> None:
        """Send a message, now or when there is room for it."""
        self._unsent += pack(message)
        self.flush()

    def flush(self) -> None:
        """Send what there is room for."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:  # it has gone: the slot tells the next one
                self._unsent.clear()
                return
            del self._unsent[:sent]

    def hear(self) -> Iterator[Message] | None:
        """The messages that have come, perhaps none; None if there is nothing to receive now.

        Raises:
            EOFError: the other side has gone, and all that it said was heard.
            ValueError: this is not our protocol.
        """
        try:
            data = self._socket.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return self._unpacker.feed(data)

    def close(self) -> None:
        """Let go of the socket, and of what is unsent."""
        self._socket.close()
