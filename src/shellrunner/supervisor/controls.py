"""Control running commands through their keepers: signals, input, the size of the terminal.

Made by the composition root for `web`, which has a protocol of its own for it. Must not know HTTP or slots.
"""

import asyncio
import signal
from base64 import b64encode
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from shellrunner.clock import Millis
from shellrunner.errors import (
    BeingEnded,
    InputClosed,
    InputFull,
    KeeperSilent,
    NoTerminal,
    NotRunning,
    ShellrunnerError,
    WrongOffset,
)
from shellrunner.keeper.protocol import CONTROLS_SINCE, STATE_SINCE, TREE_SIGNALS_SINCE, Message
from shellrunner.model import CommandState, Running, TerminalSize
from shellrunner.store import Work
from shellrunner.supervisor.keeper_connection import KeeperConnection
from shellrunner.supervisor.message_protocol import KeeperGone
from shellrunner.supervisor.running_job import RunningJob

T = TypeVar("T")

_MISSING: Final = {  # from a keeper that is older than this version of the protocol
    CONTROLS_SINCE: "neither signals nor input",
    TREE_SIGNALS_SINCE: "no signals to the whole tree",
    STATE_SINCE: "neither pauses nor another size of its terminal",
}
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

    def runs(self, job_id: int, /) -> bool:
        """Return whether this host runs the job, or is about to."""
        return self._find(job_id) is not None

    async def check_claim(self, job_id: int, token: str) -> None:
        """Wait until the job's keeper is known, and check that the job runs under this claim token.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent: as for `send_signal`.
        """
        job, _ = await _in_time(job_id, self._find_keeper(job_id))
        if job.claim.token != token:
            raise NotRunning(job_id)

    def command_state(self, job_id: int, _: Millis | None = None, /) -> CommandState:
        """Return what is known of the job's command beside the history; nothing if it does not run.

        That is always of its present claim, whenever that was made.
        """
        job = self._find(job_id)
        return CommandState() if job is None else CommandState(_find_pid(job), job.is_paused, job.terminal)

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

    async def pause(self, job_id: int) -> None:
        """Suspend the command and all of its tree; return once its keeper has done so.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent: as for `send_signal`.
            BeingEnded: its tree is being terminated.
        """
        await _in_time(job_id, self._control(job_id, {"do": "pause"}))

    async def resume(self, job_id: int) -> None:
        """Resume the command and its tree; return once its keeper has done so.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent: as for `send_signal`.
        """
        await _in_time(job_id, self._control(job_id, {"do": "resume"}))

    async def resize(self, job_id: int, size: TerminalSize) -> None:
        """Set the size of the command's terminal; return once its keeper has done so.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent: as for `send_signal`.
            NoTerminal: it does not run on one.
        """
        await _in_time(job_id, self._control(job_id, {"do": "resize", "rows": size.rows, "columns": size.columns}))

    async def _control(self, job_id: int, message: Message) -> None:
        job, connection = await self._find_keeper(job_id, STATE_SINCE)
        match (await _request(job, connection, message))["refused"]:
            case "gone":
                raise NotRunning(job_id)
            case "ending":
                raise BeingEnded(job_id)
            case "no terminal":
                raise NoTerminal(job_id)

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
        text = b64encode(data).decode()
        answer = await _request(job, connection, {"do": "input", "offset": offset, "data": text, "end": end})
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


def _find_pid(job: RunningJob) -> int | None:
    """Return the pid of the command while it runs, as its keeper has written it into its slot."""
    if job.connection is None:
        return None
    try:
        record = job.connection.slot.find(job.claim.job_id, job.claim.token)
    except OSError:
        return None
    return record.progress.get("pid") if record and record.end is None else None


async def _request(job: RunningJob, connection: KeeperConnection, message: Message) -> Message:
    """Send a message about the job to its keeper; return the answer."""
    try:
        return await connection.request({**message, "job": job.claim.job_id, "token": job.claim.token})
    except KeeperGone:
        raise NotRunning(job.claim.job_id) from None


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
        words = f"job {job_id} runs under a keeper of an older version, which supports {_MISSING[since]}"
        ShellrunnerError.__init__(self, words)
