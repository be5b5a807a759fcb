"""A nonblocking message connection: receives what has arrived, and keeps what cannot be sent yet.

Used by keepers and by the fork server for the server's connection. A server may be stopped (SIGSTOP, a debugger, a
frozen cgroup): what it does not read is kept here, so that the deadlines of commands are met. Must not know what the
messages mean.
"""

import select
import socket
from collections.abc import Iterator
from contextlib import suppress

from .protocol import Message, Unpacker, pack

_MAX_RECEIVED = 65_536  # bytes received at once


class MessageSocket:
    """A socket, the received part of an incomplete message, and the bytes that are not sent yet."""

    def __init__(self, connection: socket.socket) -> None:
        """Use a connected socket, which is closed with this object."""
        self._socket = connection
        self._unpacker = Unpacker()
        self._unsent = bytearray()
        self._broken = False  # a send failed: nothing more is sent, and what was received is the last

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._socket.fileno()

    @property
    def events(self) -> int:
        """The events to wait for; then call `flush` and `receive`."""
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def send(self, message: Message) -> None:
        """Send a message, now or when the socket accepts it."""
        if not self._broken:
            self._unsent += pack(message)
            self.flush()

    def flush(self) -> None:
        """Send as much as the socket accepts."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self._break()
                return
            del self._unsent[:sent]

    def _break(self) -> None:
        """End the connection, so that the server looks into the slot for what could not be sent.

        Mostly it is the server that is gone. What it has sent can still be received: shutdown(2) leaves what a stream
        socket holds already (unix(7)).
        """
        self._broken = True
        self._unsent.clear()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def receive(self) -> Iterator[Message] | None:
        """Return the messages that have arrived, perhaps none; None if there is nothing to receive now.

        Raises:
            EOFError: the other side has closed, and everything it sent was received.
            ValueError: this is not our protocol.
        """
        try:
            data = self._socket.recv(_MAX_RECEIVED, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if not self._broken:
                return None
            data = b""
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return self._unpacker.feed(data)

    def close(self) -> None:
        """Close the socket; what is unsent is discarded."""
        with suppress(OSError):
            self._socket.close()
