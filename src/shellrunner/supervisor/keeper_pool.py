"""The keepers of this state directory: make them, find them again after a restart, bury them.

Owned by the supervisor. Knows slots as files and keepers as processes; must not know the store or what a job is.
"""

import asyncio
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from shellrunner.keeper.identity import ProcessIdentity
from shellrunner.keeper.protocol import PROTOCOL
from shellrunner.keeper.slot import SlotReader, slot_name, socket_name
from shellrunner.supervisor.keeper_connection import (
    ForkServerConnection,
    KeeperConnection,
    attach,
    connect,
    exec_fork_server,
)

log = logging.getLogger("shellrunner.supervisor")

_PATIENCE = 3.0  # seconds for the fork server to say how a keeper died; it sweeps for two
_AGAIN = 0.01  # seconds until a lock is looked at again: flock(2) cannot be awaited
_SELDOM = 2.0  # seconds to which that grows for a lock that stays held
_ASIDE = "aside"


class KeeperPool:
    """Everything that lies in `slots/`. Open for as long as the supervisor runs."""

    def __init__(self, state_dir: Path, header: dict[str, Any], forks: ForkServerConnection) -> None:
        """Work in `state_dir`; `header` (history and program) goes into every new slot."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._state_dir, self._header, self._forks = state_dir, header, forks
        self.state = os.open(state_dir, flags)
        self.slots = os.open(state_dir / "slots", flags)
        self._last = max(self.numbers(), default=0)
        self._reviving = asyncio.Lock()
        self._links: set[KeeperConnection] = set()

    def close(self) -> None:
        """Let go of all of them: who keeps nothing exits, who keeps a command sees it through.

        The fork server stays until its last keeper is gone.
        """
        for link in self._links:
            link.close()
        self._forks.close()
        os.close(self.slots)
        os.close(self.state)

    def numbers(self) -> list[int]:
        """The keepers of which there is a slot."""
        stems = (name.removesuffix(".slot") for name in os.listdir(self.slots) if name.endswith(".slot"))
        return sorted(int(stem) for stem in stems if stem.isdecimal() and slot_name(int(stem)) == f"{stem}.slot")

    def tidy(self, spoken_of: set[int]) -> list[int]:
        """Remove the slots of which the history does not speak, and give no new keeper a number of which it does.

        Returns:
            Those of which it does not speak and whose keepers still live: they have let children go.
        """
        held = []
        for number in self.numbers():
            header = self.header(number)
            if header and header["history"] != self._header["history"]:
                self.set_aside(number, f"it belongs to another history, {header['history']}")
            elif number not in spoken_of:
                if not self.is_gone(number):
                    held.append(number)
                elif header:
                    self.bury(number)
                else:
                    self.set_aside(number, "it is damaged")
        self._last = max(self._last, *spoken_of, 0)
        return held

    async def make(self) -> KeeperConnection:
        """Have a new keeper forked, and connect to it.

        Raises:
            KeeperGone: it, or the fork server, died over it.
            OSError: it could not be made or connected to.
        """
        if self._forks.closed.done():
            await self._revive()
        self._last += 1
        number = self._last
        link: KeeperConnection | None = None
        try:
            await self._forks.fork(number, self._header)
            link = await self._connect(number)
            _check((await link.hello)["protocol"])
        except BaseException:
            self._forks.forget(number)
            if link:
                self._links.discard(link)
                link.close()
            raise
        return link

    async def find(self, number: int) -> KeeperConnection | None:
        """Connect to a keeper that an earlier server had made; None once it is certain that it is gone."""
        while not self.is_gone(number):
            with suppress(OSError):
                return await self._connect(number)
            await asyncio.sleep(_AGAIN)
        return None

    async def _connect(self, number: int) -> KeeperConnection:
        link = await connect(self.slots, number)
        self._links.add(link)
        return link

    async def dismiss(self, link: KeeperConnection, *, usable: bool) -> None:
        """Let a keeper go, and bury it when it is gone; one that is not `usable` stays with what it still has."""
        if usable:
            link.finish()
        await link.closed
        self._links.discard(link)
        link.close()
        self._forks.forget(link.number)
        await self.bury_when_gone(link.number)

    async def bury_when_gone(self, number: int) -> None:
        """Wait until a keeper is gone of which the history has all, and remove its slot."""
        await self._until_gone(number)
        self.bury(number)

    async def _until_gone(self, number: int) -> None:
        pause = _AGAIN
        while not self.is_gone(number):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _SELDOM)

    async def _revive(self) -> None:
        async with self._reviving:
            if self._forks.closed.done():
                log.warning("the fork server is gone; starting another", extra={"pid": self._forks.process.pid})
                self._forks = await attach(*exec_fork_server(self._state_dir))

    async def how_it_ended(self, number: int) -> str:
        """Wait until a keeper is gone and what it kept was swept; say what is known of its end.

        Whoever was stopped and has our words unread could still act on them: only the free lock says that it is over.
        """
        await self._until_gone(number)
        words = f"its keeper ({self._described(number)}) was gone before it could record the end"
        report = await self._forks.died(number, _PATIENCE)
        if report is None:
            return words
        ended = f"{words}: {_status(report['status'])}"
        left = [f"pid {pid} {_status(status)}" for pid, status in report["orphans"]]
        return f"{ended}; what it left was ended by the fork server: {', '.join(left)}" if left else ended

    def is_gone(self, number: int) -> bool:
        """Whether the lock of this keeper's slot is free (or there is no slot). If that cannot be told, it is not."""
        try:
            slot = SlotReader(self.slots, slot_name(number))
        except FileNotFoundError:
            return True
        except OSError:  # no descriptors left, say
            return False
        try:
            return slot.keeper_is_gone()
        finally:
            slot.close()

    def header(self, number: int) -> dict[str, Any] | None:
        """Whose slot this is; None if it is not there, or says nothing that can be read.

        Raises:
            OSError: it could not be looked at (no descriptors left).
        """
        try:
            slot = SlotReader(self.slots, slot_name(number))
        except FileNotFoundError:
            return None
        try:
            return slot.header()
        finally:
            slot.close()

    def kill(self, number: int) -> None:
        """Kill a keeper that does not do its work; the fork server ends what it kept.

        Raises:
            OSError: it could not be (no descriptors left).
        """
        header = self.header(number)
        pidfd = ProcessIdentity.from_dict(header["identity"]).open_pidfd() if header else None
        if pidfd is not None:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)

    def bury(self, number: int) -> None:
        """Remove the slot of a keeper that is gone, once the history has all that it said."""
        for name in (slot_name(number), socket_name(number)):
            with suppress(FileNotFoundError, IsADirectoryError):  # the next start sets such a directory aside
                os.unlink(name, dir_fd=self.slots)

    def set_aside(self, number: int, why: str) -> None:
        """Move a slot that is not ours to judge out of the way, and say so."""
        with suppress(FileExistsError):
            os.mkdir(_ASIDE, 0o700, dir_fd=self.slots)
        with suppress(FileNotFoundError):
            os.unlink(socket_name(number), dir_fd=self.slots)
        place = f"{_ASIDE}/{os.urandom(4).hex()}-{slot_name(number)}"
        os.rename(slot_name(number), place, src_dir_fd=self.slots, dst_dir_fd=self.slots)
        log.warning("a slot was set aside", extra={"keeper": number, "reason": why, "slot": f"slots/{place}"})

    def _described(self, number: int) -> str:
        header = self.header(number)
        return f"number {number}, pid {header['identity']['pid']}" if header else f"number {number}"


def _check(protocol: int) -> None:
    # An earlier one would pass over what it does not know: the user that a command is to run as, say.
    if protocol < PROTOCOL:
        raise OSError("the fork server is of an earlier version: restart the service")


def _status(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    return f"exited with {os.WEXITSTATUS(status)}"
