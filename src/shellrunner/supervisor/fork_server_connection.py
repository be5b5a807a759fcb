"""The fork server as the server sees it: launch it, connect to it, have it fork keepers.

Owned by the keeper pool; the composition root launches the first one. Must not know jobs, the store or HTTP.
"""

import asyncio
import os
import resource
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import shellrunner.keeper
from shellrunner.keeper.protocol import Message
from shellrunner.supervisor.message_protocol import KeeperGone, MessageProtocol

_PROGRAM = str(Path(shellrunner.keeper.__file__).with_name("__main__.py"))
_FORK_TIMEOUT = 10.0  # seconds for the fork server to fork a keeper
_REAP_INTERVAL = 1.0  # seconds between looks for the end of a fork server that is disconnected
_INHERITED = ("LD_LIBRARY_PATH",)  # the interpreter itself may need it; commands never see it


class ForkServerLauncher(NamedTuple):
    """Launches fork servers for one state directory.

    Their commands get the umask (umask(2)) and the soft limit of open files (RLIMIT_NOFILE, getrlimit(2)) with which
    the service was started; the server changes its own.
    """

    state_dir: Path
    umask: int
    open_files: int

    @classmethod
    def from_process(cls, state_dir: Path) -> Self:
        """Take umask and limit from this process, which has not changed them yet."""
        umask = os.umask(0o077)  # it cannot be read without setting another
        os.umask(umask)
        return cls(state_dir, umask, resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def launch(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Exec a fork server; return its process and the socket to it. `slots` and `runs` have to be there already.

        Done before the server opens its lock, its history and its port: none of them may ever be inherited.
        """
        ours, theirs = socket.socketpair()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        log = os.open(self.state_dir / "keepers.log", flags, 0o600)
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    _PROGRAM,
                    str(theirs.fileno()),
                    str(self.state_dir),
                    str(self.open_files),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                umask=self.umask,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            )
        finally:
            os.close(log)
            theirs.close()
        ours.setblocking(False)
        return process, ours


class ForkServerConnection(MessageProtocol):
    """A connected fork server."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__()
        self.process = process
        self._forked: dict[int, asyncio.Future[Message]] = {}
        self._died: dict[int, asyncio.Future[Message]] = {}

    async def fork(self, number: int, header: dict[str, Any]) -> None:
        """Have a keeper forked; it can be connected to at once.

        Raises:
            KeeperGone: the fork server is gone.
            OSError: it could not fork one, or did not answer in time; then see `wait_late`.
        """
        if self.closed.done():
            raise KeeperGone(number)
        forked = self._forked[number] = asyncio.get_running_loop().create_future()
        self._died[number] = asyncio.get_running_loop().create_future()
        self.send({"do": "fork", "keeper": number, "header": header})
        try:
            async with asyncio.timeout(_FORK_TIMEOUT):
                answer = await asyncio.shield(forked)
        except TimeoutError:
            raise OSError(f"the fork server (pid {self.process.pid}) does not answer") from None
        self._forked.pop(number, None)
        if answer["say"] == "failed":
            raise OSError(answer["reason"])

    async def wait_late(self, number: int) -> None:
        """Wait until a keeper whose fork was not seen through will not be forked any more, or has been."""
        forked = self._forked.get(number)
        if forked:
            with suppress(KeeperGone):
                await asyncio.shield(forked)
            self._forked.pop(number, None)

    async def wait_died(self, number: int, seconds: float) -> Message | None:
        """Wait up to so many seconds for the report of a keeper's death (`died`).

        Returns:
            None if this fork server did not fork the keeper, is gone, or did not report in time.
        """
        future = self._died.get(number)
        if future is None:
            return None
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(future)
        except (TimeoutError, KeeperGone):
            return None
        finally:
            self._died.pop(number, None)

    def forget(self, number: int) -> None:
        """Drop what would be reported about this keeper: nobody will ask."""
        self._died.pop(number, None)

    def message_received(self, message: Message) -> None:
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
                future.exception()  # marks it as retrieved: perhaps nobody waits for it
        self._reap()

    def _reap(self) -> None:
        """Reap the process once it has ended: it outlives its connection until its last keeper is gone."""
        if self.process.poll() is None:
            asyncio.get_running_loop().call_later(_REAP_INTERVAL, self._reap)


async def attach(process: subprocess.Popen[bytes], connection: socket.socket) -> ForkServerConnection:
    """Return a connection over the socket to a fork server that was launched."""
    loop = asyncio.get_running_loop()
    _, fork_server = await loop.create_connection(lambda: ForkServerConnection(process), sock=connection)
    return fork_server
