"""The server's end of the sockets: one to the fork server, one to each keeper.

Owned by the supervisor. Turns messages into futures; must not know jobs' meaning, the store or HTTP.
"""

import asyncio
import os
import resource
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from base64 import b64encode
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import shellrunner.keeper
from shellrunner.keeper.protocol import Message, Unpacker, pack
from shellrunner.keeper.slot import SlotReader, slot_name, socket_name

_PROGRAM = str(Path(shellrunner.keeper.__file__).with_name("__main__.py"))
_PATIENCE = 10.0  # seconds for the fork server to make a keeper
_OPEN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)  # as the service was started: what commands get
os.umask(_UMASK := os.umask(0o077))  # likewise; it cannot be read but by setting another
_INHERITED = ("LD_LIBRARY_PATH",)  # the interpreter itself may need it; commands never see it


class _Wire(asyncio.Protocol, ABC):
    """A connection on which messages come and go."""

    def __init__(self) -> None:
        self._unpacker = Unpacker()
        self._transport: asyncio.WriteTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  what a stream socket always gives
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._unpacker.feed(data):
            self.received(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    @abstractmethod
    def received(self, message: Message) -> None:
        """A message came."""

    def send(self, message: Message) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(pack(message))

    def finish(self) -> None:
        """Say that nothing more will be said; the other side is still heard until it closes."""
        if self._transport and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        if self._transport:
            self._transport.close()


class KeeperGone(Exception):
    """The keeper's connection ended before it said what was waited for."""


class KeeperConnection(_Wire):
    """One keeper, as the server knows it. `hello` is what it said of itself, `slot` where it writes."""

    def __init__(self, number: int, slot: SlotReader) -> None:
        super().__init__()
        self.number, self.slot = number, slot
        self.hello: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[bool] | None = None
        self._early: bool | None = None  # an end that was said before anybody waited for it
        self._giving: deque[asyncio.Future[Message]] = deque()  # answered in order
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()

    async def ended(self) -> bool:
        """Wait until the keeper says that its command ended; true if it takes no further one.

        Raises:
            KeeperGone: it never will.
        """
        if self._early is not None:
            early, self._early = self._early, None
            return early
        if self.closed.done():
            raise KeeperGone(self.number)
        self._ended = asyncio.get_running_loop().create_future()
        try:
            return await self._ended
        finally:
            self._ended = None

    async def give(self, job: int, token: str, offset: int | None, data: bytes, *, end: bool) -> Message:
        """Send input to the command; return what the keeper says of it (`took`).

        Raises:
            KeeperGone: it never will.
        """
        # One after the other, each once the keeper has read nearly all of what came before: what a stopped one does
        # not read would fill our memory, and would be taken long after whoever sent it has given up.
        async with self._turn:
            await self._room.wait()
            if self.closed.done():
                raise KeeperGone(self.number)
            taken: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            self._giving.append(taken)  # and there it stays until it is answered, even if nobody waits any more
            self.send({
                "do": "input", "job": job, "token": token,
                "offset": offset, "data": b64encode(data).decode(), "end": end,
            })  # fmt: skip
        return await taken

    def pause_writing(self) -> None:
        """More than the transport's high-water mark is unread."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Nearly all was read."""
        self._room.set()

    def received(self, message: Message) -> None:
        if message["say"] == "hello":
            if not self.hello.done():
                self.hello.set_result(message)
        elif message["say"] == "took":
            taken = self._giving.popleft()
            if not taken.done():
                taken.set_result(message)
        elif self._ended and not self._ended.done():
            self._ended.set_result(message["retiring"])
        else:
            self._early = message["retiring"]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._room.set()
        waiting: list[asyncio.Future[Any] | None] = [self.hello, self._ended, *self._giving]
        for future in waiting:
            if future and not future.done():
                future.set_exception(KeeperGone(self.number))
                future.exception()  # seen: nobody may be waiting

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
        _, link = await asyncio.get_running_loop().create_unix_connection(
            lambda: KeeperConnection(number, slot), path
        )
    except BaseException:
        slot.close()
        raise
    return link


class ForkServerConnection(_Wire):
    """The process that makes keepers. `died` has what it said of keepers that are gone, by number."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__()
        self.process = process
        self._forked: dict[int, asyncio.Future[Message]] = {}
        self._died: dict[int, asyncio.Future[Message]] = {}

    async def fork(self, number: int, header: dict[str, Any]) -> None:
        """Have a keeper made; it can be connected to at once.

        Raises:
            KeeperGone: the fork server is gone.
            OSError: it could not make one, or does not answer.
        """
        if self.closed.done():
            raise KeeperGone(number)
        forked = self._forked[number] = asyncio.get_running_loop().create_future()
        self._died[number] = asyncio.get_running_loop().create_future()
        self.send({"do": "fork", "keeper": number, "header": header})
        try:
            answer = await asyncio.wait_for(forked, _PATIENCE)
        except TimeoutError:
            raise OSError(f"the fork server (pid {self.process.pid}) does not answer") from None
        finally:
            self._forked.pop(number, None)
        if answer["say"] == "failed":
            raise OSError(answer["reason"])

    async def died(self, number: int, seconds: float) -> Message | None:
        """Wait for what the fork server says of a keeper's death; None if it is not its, or it does not say."""
        future = self._died.get(number)
        if future is None:
            return None
        try:
            return await asyncio.wait_for(asyncio.shield(future), seconds)
        except (TimeoutError, KeeperGone):
            return None
        finally:
            self._died.pop(number, None)

    def forget(self, number: int) -> None:
        """Nobody will ask how this keeper died."""
        self._died.pop(number, None)

    def received(self, message: Message) -> None:
        waiting: asyncio.Future[Message] | None
        if message["say"] in ("forked", "failed"):
            waiting = self._forked.get(message["keeper"])
        else:
            waiting = self._died.get(message["keeper"])
        if waiting and not waiting.done():
            waiting.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        waiting: list[asyncio.Future[Message]] = [*self._forked.values(), *self._died.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(KeeperGone("the fork server is gone"))
                future.exception()
        self.process.poll()


def exec_fork_server(state_dir: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Exec the fork server for this state directory (in which `slots` and `runs` are there).

    Done before the server opens its lock, its history and its port: none of them may ever be inherited.
    """
    ours, theirs = socket.socketpair()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log = os.open(state_dir / "keepers.log", flags, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _PROGRAM, str(theirs.fileno()), str(state_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            umask=_UMASK,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
        )
    finally:
        os.close(log)
        theirs.close()
    with suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, _OPEN_FILES)
    ours.setblocking(False)
    return process, ours


async def attach(process: subprocess.Popen[bytes], connection: socket.socket) -> ForkServerConnection:
    """Take up the conversation with a fork server that was exec'ed."""
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: ForkServerConnection(process), sock=connection)
    return wire
