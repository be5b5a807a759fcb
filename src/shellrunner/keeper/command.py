"""Start one command, and decode its wait status.

Used by the keeper's loop. Knows posix_spawn and wait statuses; must not know slots or process trees.
posix_spawn (vfork inside) costs a fraction of a fork, and the child never runs our code. It cannot set a working
directory, so the keeper enters it and leaves it. Limits, other users and terminals need a fork (`fork_exec`).
"""

import os
import signal
import time
from typing import Any, NamedTuple

from .fork_exec import TargetUser, requested_limits, spawn
from .program import Program, StartStep, StepFailed, explain_refusal
from .sandbox import CannotConfine, Sandbox, spawn_confined
from .stdin_buffer import StdinBuffer
from .stdio import Stdio

# Every signal gets its default action and none is blocked: the command must not ignore what the keeper ignores.
_DEFAULT_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_MAX_NAME = 400  # characters of a path in an error text: at six bytes each, they still fit into a slot


class CannotStart(Exception):
    """The command could not be started; the text is the job's `detail`."""


class Command(NamedTuple):
    """A command that was started.

    `pipes` are the reading ends of its output, by stream (0 stdout, 1 stderr). `stdin` is set if its input is written
    while it runs; with a terminal it is a `Pty`, whose master is the only reading end. `sandbox` is set if the
    command is confined.
    """

    pid: int
    pidfd: int  # -1 if there is none: then its end is looked for from time to time
    pipes: list[int]
    stdin: StdinBuffer | None
    wall: int  # milliseconds since the epoch
    clock: float  # time.monotonic()
    sandbox: Sandbox | None


def start(message: dict[str, Any]) -> Command:
    """Start the command of a `start` message.

    Raises:
        CannotStart: no such directory or program, no permission, too large, no processes left, …
    """
    try:
        stdio = Stdio(message)
    except OSError as error:
        kind = "a terminal" if message.get("tty") else "pipes"
        raise CannotStart(f"cannot open {kind} for it: {error.strerror}") from None
    try:
        wall, clock = time.time_ns() // 1_000_000, time.monotonic()
        pid, sandbox = _spawn_confined(message, stdio) if message.get("sandbox") else (_spawn(message, stdio), None)
    except CannotStart:
        stdio.close_all()
        raise
    # It runs: nothing below may fail.
    stdio.close_child_ends()
    return Command(pid, _open_pidfd(pid), stdio.pipes, stdio.stdin, wall, clock, sandbox)


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:  # no descriptors or memory left, or a system call filter
        return -1


def _spawn(message: dict[str, Any], stdio: Stdio) -> int:
    program, user = Program.from_message(message), TargetUser.from_message(message)
    limits = requested_limits(message.get("limits"))
    try:
        if limits or user or stdio.is_terminal:
            return spawn(
                program,
                actions=stdio.actions,
                default_signals=_DEFAULT_SIGNALS,
                limits=limits,
                user=user,
                on_terminal=stdio.is_terminal,
            )
        program.enter()
        try:
            path = program.find()
            return os.posix_spawn(
                path,
                program.argv,
                program.environment,
                file_actions=stdio.actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        finally:
            # Not the state directory, which may be closed to us by now. A failure here must not deny the start.
            _leave_directory()
    except StepFailed as failed:
        raise CannotStart(_describe(message, failed.step, failed.errno)) from None
    except OSError as error:
        raise CannotStart(_describe(message, StartStep.EXECUTE, error.errno or 0)) from None


def _leave_directory() -> None:
    try:  # noqa: SIM105  `suppress` is three calls, for every command
        os.chdir("/")
    except OSError:
        pass


def _spawn_confined(message: dict[str, Any], stdio: Stdio) -> tuple[int, Sandbox]:
    sandbox = message["sandbox"]
    try:
        return spawn_confined(
            Program.from_message(message),
            stdio,
            sandbox,
            default_signals=_DEFAULT_SIGNALS,
            limits=requested_limits(message.get("limits")),
            user=TargetUser.from_message(message),
        )
    except CannotConfine as error:
        raise CannotStart(f"cannot start it under the profile {sandbox['profile']}: {error}") from None
    except StepFailed as failed:
        raise CannotStart(_describe(message, failed.step, failed.errno)) from None
    except OSError as error:
        reason = error.strerror
        raise CannotStart(f"cannot start it under the profile {sandbox['profile']}: {reason}") from None


def _describe(message: dict[str, Any], step: StartStep, number: int) -> str:
    reason = os.strerror(number)
    match step:
        case StartStep.SWITCH_USER:
            return f"cannot become the user with uid {message['user']['uid']}: {reason}"
        case StartStep.ENTER_DIRECTORY:
            return f"cannot enter the directory {_shorten(message['cwd'])}: {reason}"
        case StartStep.FIND_PROGRAM:
            reason = "not found along PATH"
        case StartStep.EXECUTE:
            program = Program.from_message(message)
            reason = explain_refusal(program, number, as_other_user=bool(message.get("user"))) or reason
            _leave_directory()
    return f"cannot start {_shorten(message['argv'][0])}: {reason}"


def _shorten(name: str) -> str:
    # A name may be as long as an argument, and the reason, which follows it, must not be cut off.
    return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"


def signal_name(number: int) -> str:
    """Return a signal's name: `SIGSEGV`, or `SIGRTMIN+3` for one without a name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"SIG{number}"


def decode_status(status: int) -> dict[str, Any]:
    """Return a wait status as `{"exit_code", "signal"}`, one of which is None (wait(2))."""
    if os.WIFEXITED(status):
        return {"exit_code": os.WEXITSTATUS(status), "signal": None}
    return {"exit_code": None, "signal": signal_name(os.WTERMSIG(status))}
