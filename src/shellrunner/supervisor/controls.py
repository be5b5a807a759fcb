"""Send signals and input to running commands, through their keepers.

Made by the composition root for `web`, which has a protocol of its own for it. Must not know HTTP or slots.
"""

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from shellrunner.errors import InputClosed, InputFull, KeeperSilent, NotRunning, ShellrunnerError, WrongOffset
from shellrunner.keeper.protocol import CONTROLS_SINCE, TREE_SIGNALS_SINCE
from shellrunner.model import Running
from shellrunner.store import Work
from shellrunner.supervisor.keeper_connection import KeeperConnection
from shellrunner.supervisor.message_protocol import KeeperGone
from shellrunner.supervisor.running_job import RunningJob

T = TypeVar("T")

_TIMEOUT = 10.0  # seconds for a keeper to answer, or to be found again after a restart
_POLL_INTERVAL = 0.01  # seconds between looks for the keeper of a job that was only just claimed


class FindRunningJob(Protocol):
    """Finds a running job (`Supervisor.running_job`)."""

    def __call__(self, job_id: int, /) -> RunningJob | None:
        """Return the job if it runs or is about to."""


def _signals() -> Mapping[str, int]:
    names = {known.name: int(known) for known in sorted(signal.Signals)}
    between = range(signal.SIGRTMIN + 1, signal.SIGRTMAX)
    return MappingProxyType(names | {f"SIGRTMIN+{number - signal.SIGRTMIN}": number for number in between})


class Controls:
    """Controls the commands that run."""

    signals: Final = _signals()  # by name, as signal(7) has them

    def __init__(self, store: Work, find: FindRunningJob) -> None:
        """Ask `store` whether a job runs, and `find` for its keeper."""
        self._store, self._find = store, find

    def pid(self, job_id: int, /) -> int | None:
        """Return the pid of the job's command while it runs, as its keeper has written it into its slot."""
        job = self._find(job_id)
        if job is None or job.connection is None:
            return None
        try:
            record = job.connection.slot.find(job_id, job.claim.token)
        except OSError:
            return None
        return record.progress.get("pid") if record and record.end is None else None

    async def send_signal(self, job_id: int, signum: int, *, to_tree: bool = False) -> None:
        """Send a signal to the command's process group, or to every process group among its descendants.

        Does nothing if the command has just ended.

        Raises:
            NoSuchJob: never accepted, or deleted.
            NotRunning: it waits, is queued or done, or its keeper's version does not support this.
            KeeperSilent: its keeper does not answer.
        """
        since = TREE_SIGNALS_SINCE if to_tree else CONTROLS_SINCE
        job, connection = await _in_time(job_id, self._find_keeper(job_id, since))
        to = {"to": "tree"} if to_tree else {}
        connection.send({"do": "signal", "job": job_id, "token": job.claim.token, "signum": signum, **to})

    async def send_input(self, job_id: int, offset: int | None, data: bytes, *, end: bool) -> None:
        """Append all of `data` to the command's input, and end the input if `end`; return once its keeper has both.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent: as for `send_signal`.
            InputClosed: it takes no input, or no more.
            WrongOffset: `offset` is not the number of bytes taken so far.
            InputFull: too much of what was taken so far is unread.
        """
        await _in_time(job_id, self._send_input(job_id, offset, data, end=end))

    async def _send_input(self, job_id: int, offset: int | None, data: bytes, *, end: bool) -> None:
        job, connection = await self._find_keeper(job_id)
        try:
            answer = await connection.send_input(job_id, job.claim.token, offset, data, end=end)
        except KeeperGone:
            raise NotRunning(job_id) from None
        match answer["refused"]:
            case "offset":
                raise WrongOffset(answer["offset"])
            case "full":
                raise InputFull(job_id, answer["offset"])
            case "closed":
                raise InputClosed(job_id)
            case "gone":
                raise NotRunning(job_id)

    async def _find_keeper(self, job_id: int, since: int = CONTROLS_SINCE) -> tuple[RunningJob, KeeperConnection]:
        """Find the job's keeper, or wait for it: the job may just have been claimed, or be adopted just now.

        It must speak a protocol of version `since` or later.
        """
        while True:
            job = self._find(job_id)
            if job and job.connection:
                await _check_version(job_id, job.connection, since)
                return job, job.connection
            if not isinstance((await self._store.job(job_id)).phase, Running):
                raise NotRunning(job_id)
            await asyncio.sleep(_POLL_INTERVAL)


async def _check_version(job_id: int, connection: KeeperConnection, since: int) -> None:
    try:
        hello = await connection.hello
    except KeeperGone:
        raise NotRunning(job_id) from None
    if connection.closed.done():
        raise NotRunning(job_id)
    if hello["protocol"] < since:
        raise _KeeperTooOld(job_id, since)


async def _in_time(job_id: int, work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await work
    except TimeoutError:
        raise KeeperSilent(job_id) from None


class _KeeperTooOld(NotRunning):
    def __init__(self, job_id: int, since: int) -> None:
        missing = "neither signals nor input" if since == CONTROLS_SINCE else "no signals to the whole tree"
        words = f"job {job_id} runs under a keeper of an older version, which supports {missing}"
        ShellrunnerError.__init__(self, words)
