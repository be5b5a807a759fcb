"""Keepers that run a command which the history does not know: it was restored from a backup, or is a new one.

Or it has declared the job lost, where several hosts share it: then the end of the command is reported. Owned by the
supervisor. They are left alone, logged, counted and listed; an admin can have one end its command. Must not know HTTP
or the store.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from shellrunner.clock import Millis
from shellrunner.errors import NoSuchKeeper
from shellrunner.supervisor.keeper_pool import KeeperPool, UnfinishedCommand
from shellrunner.supervisor.message_protocol import KeeperGone
from shellrunner.supervisor.orphans import kill_orphans

log = logging.getLogger("shellrunner.supervisor")

_T = TypeVar("_T")

_POLL_INTERVAL: Final = 1.0  # seconds between looks at the keeper's lock
_END_TIMEOUT: Final = 60.0  # seconds for a cancelled command to end; then its keeper is killed


class UnknownKeeper(NamedTuple):
    """A keeper, and the command that it runs: the job id in its history, and when it was started."""

    number: int
    pid: int
    job_id: int
    history: str
    started: Millis
    host: None = None  # where there are several, others name it


class UnknownKeepers:
    """The keepers found at the start whose commands the history does not know."""

    def __init__(self, keepers: KeeperPool, report_ends: Callable[[int], Awaitable[bool]]) -> None:
        """`report_ends` records what a keeper's slot has of lost jobs; it returns false if there is nothing."""
        self._keepers, self._report_ends = keepers, report_ends
        self._found: dict[int, tuple[UnfinishedCommand, asyncio.Event]] = {}

    def __len__(self) -> int:
        return len(self._found)

    async def find(self) -> list[UnknownKeeper]:
        """Return those that still run, by number."""
        return [
            UnknownKeeper(number, command.pid, command.job, command.history, command.started)
            for number, (command, _) in sorted(self._found.items())
        ]

    async def end(self, keeper: UnknownKeeper, /) -> None:
        """Have the keeper end its command: SIGTERM, then SIGKILL after the grace; returns at once.

        Raises:
            NoSuchKeeper: it does not run any more.
        """
        if keeper.number not in self._found:
            raise NoSuchKeeper(keeper.number)
        self._found[keeper.number][1].set()

    async def watch(self, number: int) -> None:
        """See a keeper that is alive and not in use to its end, and remove its slot."""
        command = await _retried(self._keepers.unfinished, number)
        if command is None:  # it lets children go on, or is just exiting
            await self._report_ends(number)
            await self._keepers.remove_slot_when_gone(number)
            return
        requested = asyncio.Event()
        self._found[number] = command, requested
        fields = {"keeper": number, "pid": command.pid, "job": command.job, "history": command.history}
        log.warning("a keeper runs a command that is not in the history", extra=fields)
        try:
            while not self._keepers.is_gone(number):
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_INTERVAL):
                        await requested.wait()
                if requested.is_set():
                    await self._end(number, command)
            if requested.is_set():
                await _retried(kill_orphans, command.marks)
        finally:
            del self._found[number]
        log.info("a keeper whose command is not in the history is gone", extra=fields)
        if await self._report_ends(number):
            await self._keepers.remove_slot_when_gone(number)
        else:
            await _retried(self._keepers.quarantine, number, "its job is not in the history")

    async def _end(self, number: int, command: UnfinishedCommand) -> None:
        log.warning("ending a command that is not in the history", extra={"keeper": number, "job": command.job})
        connection = await self._keepers.find(number)
        if connection is None:
            return
        connection.send({"do": "cancel", "job": command.job, "token": command.token})
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await connection.wait_ended(command.job, command.token)
        except TimeoutError:
            await _retried(self._keepers.kill, number)
        except KeeperGone:
            pass
        self._keepers.disconnect(connection)  # idle now, it exits
        await self._keepers.wait_gone(number)


async def _retried(call: Callable[..., _T], *arguments: object) -> _T:
    """Return what a blocking call does, once it can be done: there may be no descriptors left for a while."""
    while True:
        try:
            return await asyncio.to_thread(call, *arguments)
        except OSError as error:
            fields = {"reason": repr(error), "repeats": "could not look after an unknown keeper"}
            log.error("could not look after an unknown keeper; retrying", extra=fields)  # noqa: TRY400
            await asyncio.sleep(_POLL_INTERVAL)
