"""An asyncio protocol that exchanges messages over a stream socket.

Base of the connections to keepers and to the fork server. Must not know what the messages mean.
"""

import asyncio
from abc import ABC, abstractmethod

from shellrunner.keeper.protocol import Message, Unpacker, pack


class KeeperGone(Exception):
    """The connection ended before the awaited message arrived."""


class MessageProtocol(asyncio.Protocol, ABC):
    """A connection that carries messages in both directions. `closed` is done once it is lost."""

    def __init__(self) -> None:
        self._unpacker = Unpacker()
        self._transport: asyncio.WriteTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  a stream socket's transport always is
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._unpacker.feed(data):
            self.message_received(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    @abstractmethod
    def message_received(self, message: Message) -> None:
        """Handle a message."""

    def send(self, message: Message) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(pack(message))

    def close_writing(self) -> None:
        """Send nothing more; messages are still received until the other side closes."""
        if self._transport and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        if self._transport:
            self._transport.close()
