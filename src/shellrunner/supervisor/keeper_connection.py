"""The server's connection to one keeper.

Owned by the keeper pool. Turns messages into futures; must not know jobs' meaning, the store or HTTP.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shellrunner.keeper.protocol import Message
from shellrunner.keeper.slot import SlotReader, slot_name, socket_name
from shellrunner.supervisor.message_protocol import KeeperGone, MessageProtocol


class KeeperConnection(MessageProtocol):
    """A connected keeper. `hello` is the message in which it introduces itself, `slot` the file that it writes."""

    def __init__(self, number: int, slot: SlotReader) -> None:
        super().__init__()
        self.number, self.slot = number, slot
        self.hello: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[Message] | None = None
        self._early_end: Message | None = None  # an end that was reported before anybody waited for it
        self._answers: deque[asyncio.Future[Message]] = deque()  # that are awaited; they come in order
        self._state: Message | None = None  # the last message that says what state the command is in
        self._on_state: Callable[[Message], None] | None = None
        self._request_lock = asyncio.Lock()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def pid(self) -> int | None:
        """The keeper's pid; None as long as it has not introduced itself, and once the connection has ended."""
        if self.closed.done() or not self.hello.done() or self.hello.exception():
            return None
        pid: int = self.hello.result()["identity"]["pid"]
        return pid

    async def wait_ended(self, job: int, token: str) -> Message:
        """Wait until the keeper reports the end of this command (`ended`), or that it does not start it (`refused`).

        Raises:
            KeeperGone: its connection ended first.
        """
        while True:
            message = await self._next_end()
            if (message["job"], message["token"]) == (job, token):
                return message

    async def _next_end(self) -> Message:
        if self._early_end is not None:
            early, self._early_end = self._early_end, None
            return early
        if self.closed.done():
            raise KeeperGone(self.number)
        self._ended = asyncio.get_running_loop().create_future()
        try:
            return await self._ended
        finally:
            self._ended = None

    def observe_state(self, on_state: Callable[[Message], None]) -> None:
        """Call `on_state` with what the keeper says of its command's state: now, and whenever it changes."""
        self._on_state = on_state
        if self._state is not None:
            on_state(self._state)

    async def request(self, message: Message) -> Message:
        """Send a message that the keeper answers; return its answer (`took` or `did`).

        Raises:
            KeeperGone: its connection ended before it answered.
        """
        # One at a time, and only once the keeper has read nearly all of the previous one: what a stopped keeper does
        # not read would fill our memory, and would be taken long after its sender has timed out.
        async with self._request_lock:
            await self._writable.wait()
            if self.closed.done():
                raise KeeperGone(self.number)
            answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            self._answers.append(answer)  # stays there until it is answered, even if nobody waits for it any more
            self.send(message)
        return await answer

    def pause_writing(self) -> None:
        """Stop sending requests: more than the transport's high-water mark is unread."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Send requests again: nearly all was read."""
        self._writable.set()

    def message_received(self, message: Message) -> None:
        if message["say"] in ("hello", "state"):
            self._handle_state(message)
        elif message["say"] in ("took", "did"):
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(message)
        elif self._ended and not self._ended.done():
            self._ended.set_result(message)
        else:
            self._early_end = message

    def _handle_state(self, message: Message) -> None:
        self._state = message
        if not self.hello.done():
            self.hello.set_result(message)
        if self._on_state is not None:
            self._on_state(message)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._writable.set()
        waiting: list[asyncio.Future[Any] | None] = [self.hello, self._ended, *self._answers]
        for future in waiting:
            if future and not future.done():
                future.set_exception(KeeperGone(self.number))
                future.exception()  # marks it as retrieved: perhaps nobody waits for it

    def close(self) -> None:
        super().close()
        with suppress(OSError):
            self.slot.close()


async def connect(slots: int, number: int) -> KeeperConnection:
    """Connect to the keeper of this slot (`slots` is the directory's descriptor).

    Raises:
        OSError: it does not listen (any more).
    """
    slot = SlotReader(slots, slot_name(number))
    try:
        # Through the descriptor, since a socket's own path is limited to 107 bytes (unix(7)).
        path = f"/proc/self/fd/{slots}/{socket_name(number)}"
        _, connection = await asyncio.get_running_loop().create_unix_connection(
            lambda: KeeperConnection(number, slot), path
        )
    except BaseException:
        slot.close()
        raise
    return connection
