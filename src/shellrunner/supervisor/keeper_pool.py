"""The keepers of one state directory: spawn them, find them again after a restart, remove their slots.

Owned by the supervisor. Knows slots as files and keepers as processes; must not know the store or what a job is.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from shellrunner.clock import Millis
from shellrunner.keeper.identity import ProcessIdentity, boot_id
from shellrunner.keeper.protocol import PROTOCOL
from shellrunner.keeper.slot import SlotReader, slot_name, socket_name
from shellrunner.store.state_files.traces import is_copy
from shellrunner.store.values import SlotClaim
from shellrunner.supervisor.fork_server_connection import ForkServerConnection, ForkServerLauncher, attach
from shellrunner.supervisor.keeper_connection import KeeperConnection, connect
from shellrunner.supervisor.orphans import job_mark

log = logging.getLogger("shellrunner.supervisor")

_DIED_TIMEOUT = 3.0  # seconds for the fork server to report how a keeper died; it sweeps for two
_POLL_INTERVAL = 0.01  # seconds between looks at a lock: flock(2) cannot be awaited
_HELLO_TIMEOUT = 10.0  # seconds for a new keeper to introduce itself
_MAX_REMOVAL_INTERVAL = 300.0  # seconds between attempts to remove a slot; each failure is logged
_MAX_POLL_INTERVAL = 2.0  # seconds to which that grows while the lock stays held
_QUARANTINE = "aside"  # a directory in `slots`


class UnfinishedCommand(NamedTuple):
    """A command whose end is not in its slot: its keeper's pid, whose it is, when it was started, its marks."""

    pid: int
    history: str
    job: int
    token: str
    started: Millis
    marks: list[str]


class KeeperPool:
    """The slots of a state directory and their keepers. Open as long as the supervisor runs."""

    def __init__(
        self, launcher: ForkServerLauncher, header: dict[str, Any], fork_server: ForkServerConnection
    ) -> None:
        """Fork keepers through `fork_server`, and through those that `launcher` launches should it die.

        `header` (history, its generation and home, program) goes into every new slot.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._launcher, self._header, self._fork_server = launcher, header, fork_server
        boot_id()  # read once, now: without a descriptor a claim would fail for it
        self.state = os.open(launcher.state_dir, flags)
        self.slots = os.open(launcher.state_dir / "slots", flags)
        self._last_number = max(self.numbers(), default=0)
        self._relaunching = asyncio.Lock()
        self._connections: set[KeeperConnection] = set()
        self._abandoned: asyncio.Queue[tuple[ForkServerConnection, int]] = asyncio.Queue()

    @property
    def state_dir(self) -> Path:
        """The state directory."""
        return self._launcher.state_dir

    @property
    def home(self) -> str:
        """The state directory's home, which is in every command's mark; empty if it is unknown."""
        return str(self._header.get("home", ""))

    def close(self) -> None:
        """Close every connection: idle keepers exit, the others see their commands through.

        The fork server stays until its last keeper is gone.
        """
        for connection in self._connections:
            connection.close()
        self._fork_server.close()
        os.close(self.slots)
        os.close(self.state)

    def numbers(self) -> list[int]:
        """Return the numbers of the keepers that have a slot, ascending."""
        stems = (name.removesuffix(".slot") for name in os.listdir(self.slots) if name.endswith(".slot"))
        return sorted(int(stem) for stem in stems if stem.isdecimal() and slot_name(int(stem)) == f"{stem}.slot")

    def reclaim_slots(self, in_use: set[int], *, held: bool = False) -> list[int]:
        """Remove the slots that the history does not need, and give no new keeper a number that it does.

        Slots that are damaged or of another history are quarantined; so are all if the history is `held`, because it
        may not know of what is in them.

        Returns:
            The numbers that are not in use but whose keepers still live: they have let children go, or the history
            does not know what they run.

        Raises:
            OSError: it could not be finished (no descriptors left); call it again.
        """
        alive = []
        for number in self.numbers():
            header = self.header(number)
            other = header is not None and header["history"] != self._header["history"]
            if number in in_use and not other:
                continue
            if not self.is_gone(number):
                alive.append(number)
            elif header is None and not self._is_blank(number):
                self.quarantine(number, "it is damaged")
            elif header is not None and other:
                self.quarantine(number, f"it belongs to another history, {header['history']}")
            elif held and header is not None:
                self.quarantine(number, "the history may not know of what is in it")
            else:
                self.remove_slot(number)
        self._last_number = max(self._last_number, *in_use, 0)
        return alive

    async def spawn(self) -> KeeperConnection:
        """Have a new keeper forked, and connect to it.

        Raises:
            KeeperGone: it, or the fork server, died meanwhile.
            OSError: it could not be forked or connected to.
        """
        if self._fork_server.closed.done():
            await self._relaunch_fork_server()
        self._last_number += 1
        number = self._last_number
        connection: KeeperConnection | None = None
        try:
            await self._fork_server.fork(number, self._header)
            async with asyncio.timeout(_HELLO_TIMEOUT):
                connection = await self._connect(number)
                _check_protocol((await connection.hello)["protocol"])
        except BaseException:
            self._fork_server.forget(number)
            if connection:
                self.disconnect(connection)
            self._abandoned.put_nowait((self._fork_server, number))
            raise
        return connection

    async def remove_abandoned(self) -> None:
        """Remove the slots of keepers that were not connected to: nobody connects to them any more, so they exit."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                abandoned = await self._abandoned.get()
                tasks.create_task(self._remove_abandoned(*abandoned), name=f"abandoned keeper {abandoned[1]}")

    async def _remove_abandoned(self, fork_server: ForkServerConnection, number: int) -> None:
        await fork_server.wait_late(number)  # a fork server that was stopped forks when it goes on
        await self.remove_slot_when_gone(number)

    async def find(self, number: int) -> KeeperConnection | None:
        """Connect to a keeper that an earlier server spawned; None once it is certain that it is gone."""
        pause = _POLL_INTERVAL
        while not self.is_gone(number):
            with suppress(OSError):
                return await self._connect(number)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _MAX_POLL_INTERVAL)
        return None

    def disconnect(self, connection: KeeperConnection) -> None:
        """Close a connection: the keeper exits if it is idle; a busy one can be found again."""
        self._connections.discard(connection)
        connection.close()

    async def _connect(self, number: int) -> KeeperConnection:
        connection = await connect(self.slots, number)
        self._connections.add(connection)
        return connection

    async def release(self, connection: KeeperConnection, *, usable: bool) -> None:
        """Let a keeper exit, and remove its slot once it is gone; one that is retiring exits after its children."""
        if usable:
            connection.close_writing()
        await connection.closed
        self.disconnect(connection)
        self._fork_server.forget(connection.number)
        await self.remove_slot_when_gone(connection.number)

    async def remove_slot_when_gone(self, number: int) -> None:
        """Wait until a keeper whose ends are all recorded is gone, then remove its slot."""
        await self.wait_gone(number)
        pause = _POLL_INTERVAL
        while not self.remove_slot(number):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _MAX_REMOVAL_INTERVAL)

    async def wait_gone(self, number: int) -> None:
        """Wait until the keeper's lock is free."""
        pause = _POLL_INTERVAL
        while not self.is_gone(number):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _MAX_POLL_INTERVAL)

    async def _relaunch_fork_server(self) -> None:
        async with self._relaunching:
            if self._fork_server.closed.done():
                fields = {"pid": self._fork_server.process.pid, "repeats": "fork server is gone"}
                log.warning("fork server is gone; starting another", extra=fields)
                self._fork_server = await attach(*self._launcher.launch())

    async def wait_died(self, number: int) -> str:
        """Wait until a keeper is gone and its tree swept; return the evidence: what is known about its end.

        A keeper that was stopped, with messages of ours unread, could still act on them: only its free lock says that
        it is gone.
        """
        await self.wait_gone(number)
        evidence = f"its keeper ({self._describe(number)}) was gone before it could record the end"
        report = await self._fork_server.wait_died(number, _DIED_TIMEOUT)
        if report is None:
            return evidence
        evidence = f"{evidence}: {_describe_status(report['status'])}"
        left = [f"pid {pid} {_describe_status(status)}" for pid, status in report["orphans"]]
        return f"{evidence}; the fork server ended what it left: {', '.join(left)}" if left else evidence

    @contextmanager
    def _opened_slot(self, number: int) -> Iterator[SlotReader | None]:
        """Open a slot for a moment; None if it is missing.

        Raises:
            OSError: it could not be opened (no descriptors left).
        """
        try:
            slot = SlotReader(self.slots, slot_name(number))
        except FileNotFoundError:
            slot = None
        if slot is None:
            yield None
        else:
            with closing(slot):
                yield slot

    def is_gone(self, number: int) -> bool:
        """Return whether the lock of this keeper's slot is free, or the slot missing; false if it cannot be read."""
        try:
            with self._opened_slot(number) as slot:
                return slot is None or slot.keeper_is_gone()
        except OSError:  # no descriptors left, for example
            return False

    def header(self, number: int) -> dict[str, Any] | None:
        """Return the slot's header; None if the slot is missing, or its header cannot be read.

        Raises:
            OSError: it could not be opened (no descriptors left).
        """
        with self._opened_slot(number) as slot:
            return slot.header() if slot else None

    def _is_blank(self, number: int) -> bool:
        """Return whether the slot's keeper was ended before it could be given a job."""
        with self._opened_slot(number) as slot:
            return slot is not None and slot.is_blank()

    def foreign_slot(self, number: int) -> str | None:
        """Return why the slot says nothing about this history's claims: it is a copy, or newer. Blocking.

        Raises:
            OSError: it could not be opened (no descriptors left).
        """
        with self._opened_slot(number) as slot:
            header = (slot and slot.header()) or {}
            if header.get("home", self.home) != self.home:
                return f"its slot {number} was copied from another directory"
            if header.get("generation", 0) > self._header.get("generation", 0):
                return f"its slot {number} is newer than the history"
            return f"its slot {number} is a copy, and its keeper lives" if slot and is_copy(slot, header) else None

    def marks(self, number: int, job_id: int, token: str) -> list[str]:
        """Return the marks of the processes of a job whose keeper is gone.

        A command that an earlier version started has a mark without a home. It counts only if the keeper's slot is
        here: a history without its slots may be a copy.
        """
        header = self.header(number)
        homes = {self.home} if header is None or "home" in header else {self.home, ""}
        return [job_mark(job_id, token, home) for home in homes]

    def unfinished(self, number: int) -> UnfinishedCommand | None:
        """Return the command that the keeper runs, by its slot; None if it runs none, or the slot is damaged.

        Raises:
            OSError: it could not be opened (no descriptors left).
        """
        with self._opened_slot(number) as slot:
            header, records = (slot.header(), slot.records()) if slot else (None, [])
        running = max(
            (each for each in records if each.end is None), key=lambda each: each.start["wall"], default=None
        )
        if header is None or running is None:
            return None
        mark = job_mark(running.job, running.token, str(header.get("home", "")))
        pid, history = header["identity"]["pid"], str(header["history"])
        return UnfinishedCommand(pid, history, running.job, running.token, running.start["wall"], [mark])

    def ended_claims(self, numbers: Iterable[int]) -> list[SlotClaim]:
        """Return the claims whose ends are in these slots, as far as these are of this history.

        Raises:
            OSError: one could not be opened (no descriptors left).
        """
        found: list[SlotClaim] = []
        for number in numbers:
            with self._opened_slot(number) as slot:
                header = slot.header() if slot else None
                if slot and header and header["history"] == self._header["history"]:
                    ended = (record for record in slot.records() if record.end is not None)
                    found += [SlotClaim(record.job, record.token, number) for record in ended]
        return found

    def kill(self, number: int) -> None:
        """Kill a stuck keeper; the fork server ends its command.

        Raises:
            OSError: its slot could not be opened (no descriptors left).
        """
        header = self.header(number)
        pidfd = ProcessIdentity.from_dict(header["identity"]).open_pidfd() if header else None
        if pidfd is not None:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)

    def remove_slot(self, number: int) -> bool:
        """Remove the slot of a keeper that is gone, once every end in it is recorded.

        Returns:
            False if it is still there, on a file system that is read-only by now, for example.
        """
        try:
            for name in (socket_name(number), slot_name(number)):
                with suppress(FileNotFoundError, IsADirectoryError):  # the next start quarantines such a directory
                    os.unlink(name, dir_fd=self.slots)
        except OSError as error:
            log.warning("could not remove a slot", extra={"keeper": number, "reason": error.strerror})
            return False
        return True

    def quarantine(self, number: int, reason: str) -> None:
        """Move a slot that must not be judged into a directory of its own, and log it."""
        with suppress(FileExistsError):
            os.mkdir(_QUARANTINE, 0o700, dir_fd=self.slots)
        with suppress(FileNotFoundError):
            os.unlink(socket_name(number), dir_fd=self.slots)
        target = f"{_QUARANTINE}/{os.urandom(4).hex()}-{slot_name(number)}"
        os.rename(slot_name(number), target, src_dir_fd=self.slots, dst_dir_fd=self.slots)
        log.warning("slot quarantined", extra={"keeper": number, "reason": reason, "slot": f"slots/{target}"})

    def _describe(self, number: int) -> str:
        header = self.header(number)
        return f"number {number}, pid {header['identity']['pid']}" if header else f"number {number}"


def _check_protocol(protocol: int) -> None:
    # An earlier one would ignore what it does not know: the user that a command is to run as, for example.
    if protocol < PROTOCOL:
        raise OSError("the fork server is of an earlier version: restart the service")


def _describe_status(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    return f"exited with {os.WEXITSTATUS(status)}"
