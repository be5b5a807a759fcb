"""Start one command and say what the kernel reported of it.

Owned by the keeper. Knows posix_spawn and wait statuses; must not know slots or trees.
posix_spawn (vfork inside) costs a fraction of a fork and has no moment in which the child runs our code; what it
cannot do, a working directory, is done by going there and back. Limits and other users need a fork (`forked`).
"""

import os
import signal
import time
from typing import Any, NamedTuple

from .fork_exec import User, spawn, within
from .program import Failed, Program, Step
from .stdin_buffer import StdinBuffer
from .stdio import Action, Stdio

# Every handler back to its default and nothing blocked: what the keeper ignores, its command must not (P13).
_DEFAULTS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_SHOWN = 400  # characters of a directory or program in an error: at six bytes each they still fit into a slot


class CannotStart(Exception):
    """The command could not be started; the words say why, as `detail` shows them."""


class Command(NamedTuple):
    """A command that was started. `pipes` are the reading ends, by stream (0 stdout, 1 stderr).

    `input` is what is written to it while it runs, if anything is; a `Pty` if it has one, which is then the one
    reading end too.
    """

    pid: int
    pidfd: int
    pipes: list[int]
    input: StdinBuffer | None
    wall: int  # milliseconds since the epoch
    clock: float  # time.monotonic()


def start(message: dict[str, Any], home: int) -> Command:
    """Start what a `start` message asks for; `home` is the directory (descriptor) to come back to.

    Raises:
        CannotStart: no such directory or program, no permission, too large, no processes left, …
    """
    try:
        plumbing = Stdio(message)
    except OSError as error:
        kind = "terminal" if message.get("tty") else "pipes"
        raise CannotStart(f"no {kind} for it: {error.strerror}") from None
    try:
        wall, clock = time.time_ns() // 1_000_000, time.monotonic()
        pid = _spawn(message, home, plumbing.actions)
    except CannotStart:
        plumbing.close_all()
        raise
    # It runs. If this fails, the keeper must not claim otherwise: it dies, and the job is `lost`.
    plumbing.close_child_ends()
    return Command(pid, os.pidfd_open(pid), plumbing.pipes, plumbing.input, wall, clock)


def _spawn(message: dict[str, Any], home: int, actions: list[Action]) -> int:
    program, limits, user = Program.of(message), within(message.get("limits")), User.of(message)
    try:
        if limits or user:
            return spawn(program, actions=actions, defaults=_DEFAULTS, limits=limits, user=user)
        program.enter()
        try:
            path = program.find()
            return os.posix_spawn(
                path,
                program.argv,
                program.environment,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULTS,
            )
        finally:
            os.fchdir(home)
    except Failed as failed:
        raise CannotStart(_words(message, failed.step, os.strerror(failed.number))) from None
    except OSError as error:
        raise CannotStart(_words(message, Step.EXECUTE, str(error.strerror))) from None


def _words(message: dict[str, Any], step: Step, reason: str) -> str:
    match step:
        case Step.BECOME:
            return f"cannot become the user with uid {message['user']['uid']}: {reason}"
        case Step.ENTER:
            return f"cannot enter the directory {_shown(message['cwd'])}: {reason}"
        case Step.FIND:
            reason = "not found along PATH"
    return f"cannot start {_shown(message['argv'][0])}: {reason}"


def _shown(name: str) -> str:
    # A name may be as long as an argument, and the reason, which comes after it, must not be what is cut.
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"


def signal_name(number: int) -> str:
    """`SIGSEGV`, or `SIGRTMIN+3` for one without a name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"SIG{number}"


def reported(status: int) -> dict[str, Any]:
    """What a wait status says: `{"exit_code", "signal"}`, one of them null (wait(2))."""
    if os.WIFEXITED(status):
        return {"exit_code": os.WEXITSTATUS(status), "signal": None}
    return {"exit_code": None, "signal": signal_name(os.WTERMSIG(status))}
