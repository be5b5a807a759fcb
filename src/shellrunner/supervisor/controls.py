"""What is said to a command while it runs: signals and input, handed to the keeper that has it.

Made by the composition root for `web`, which knows only what it can ask for. Must not know HTTP or slots.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from shellrunner.errors import InputClosed, InputFull, KeeperSilent, NotRunning, ShellrunnerError, WrongOffset
from shellrunner.keeper.protocol import CONTROLS_SINCE
from shellrunner.model import Running
from shellrunner.store import Work
from shellrunner.supervisor.keeper_connection import KeeperConnection, KeeperGone
from shellrunner.supervisor.running_job import RunningJob

T = TypeVar("T")

_PATIENCE = 10.0  # seconds for a keeper to answer, or to be found again after a restart
_AGAIN = 0.01  # seconds between looks for a keeper that has only just been given the job


def _signals() -> Mapping[str, int]:
    names = {known.name: int(known) for known in sorted(signal.Signals)}
    between = range(signal.SIGRTMIN + 1, signal.SIGRTMAX)
    return MappingProxyType(names | {f"SIGRTMIN+{number - signal.SIGRTMIN}": number for number in between})


class Controls:
    """Reaches the commands that run."""

    signals: Final = _signals()  # by name, as signal(7) has them

    def __init__(self, store: Work, kept: Callable[[int], RunningJob | None]) -> None:
        """Ask `store` whether a job runs, and `kept` (the supervisor) who has it."""
        self._store, self._kept = store, kept

    async def signal(self, job_id: int, signum: int) -> None:
        """Send a signal to the command's process group; one that has just ended is not hit by it.

        Raises:
            NoSuchJob: never accepted, or deleted.
            NotRunning: it waits, is queued or done, or its keeper is of a version that cannot do this.
            KeeperSilent: its keeper does not answer.
        """
        kept, link = await self._patiently(job_id, self._reach(job_id))
        link.send({"do": "signal", "job": job_id, "token": kept.claim.token, "signum": signum})

    async def give(self, job_id: int, offset: int | None, data: bytes, *, end: bool) -> None:
        """Give the command all of `data` to read, and perhaps the end of its input; return once its keeper has them.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent: as for `signal`.
            InputClosed: it takes no input, or none any more.
            WrongOffset: `offset` is not what was taken before.
            InputFull: it has not read enough of what was taken before.
        """
        await self._patiently(job_id, self._give(job_id, offset, data, end=end))

    async def _give(self, job_id: int, offset: int | None, data: bytes, *, end: bool) -> None:
        kept, link = await self._reach(job_id)
        try:
            taken = await link.give(job_id, kept.claim.token, offset, data, end=end)
        except KeeperGone:
            raise NotRunning(job_id) from None
        match taken["refused"]:
            case "offset":
                raise WrongOffset(taken["offset"])
            case "full":
                raise InputFull(job_id, taken["offset"])
            case "closed":
                raise InputClosed(job_id)
            case "gone":
                raise NotRunning(job_id)

    async def _reach(self, job_id: int) -> tuple[RunningJob, KeeperConnection]:
        """Find the keeper; it may have been claimed for, or be sought after a restart, at this very moment."""
        while True:
            kept = self._kept(job_id)
            if kept and kept.link:
                await self._check_version(job_id, kept.link)
                return kept, kept.link
            if not isinstance((await self._store.job(job_id)).phase, Running):
                raise NotRunning(job_id)
            await asyncio.sleep(_AGAIN)

    async def _check_version(self, job_id: int, link: KeeperConnection) -> None:
        try:
            hello = await link.hello
        except KeeperGone:
            raise NotRunning(job_id) from None
        if link.closed.done():
            raise NotRunning(job_id)
        if hello["protocol"] < CONTROLS_SINCE:
            raise _TooOld(job_id)

    async def _patiently(self, job_id: int, asked: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await asked
        except TimeoutError:
            raise KeeperSilent(job_id) from None


class _TooOld(NotRunning):
    def __init__(self, job_id: int) -> None:
        words = f"job {job_id} runs under a keeper of an older version, which takes neither signals nor input"
        ShellrunnerError.__init__(self, words)
