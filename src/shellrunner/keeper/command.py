"""Start one command and say what the kernel reported of it.

Owned by the keeper. Knows posix_spawn, pipes and wait statuses; must not know slots, messages or trees.
posix_spawn (vfork inside) costs a fraction of a fork and has no moment in which the child runs our code; what it
cannot do, a working directory, is done by going there and back.
"""

import os
import signal
import time
from contextlib import suppress
from typing import Any, NamedTuple

# Every handler back to its default and nothing blocked: what the keeper ignores, its command must not (P13).
_DEFAULTS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class CannotStart(Exception):
    """The command could not be started; the words say why, as `detail` shows them."""


class Command(NamedTuple):
    """A command that was started. `pipes` are the reading ends, by stream (0 stdout, 1 stderr)."""

    pid: int
    pidfd: int
    pipes: list[int]
    wall: int  # milliseconds since the epoch
    clock: float  # time.monotonic()


def start(message: dict[str, Any], home: int) -> Command:
    """Start what a `start` message asks for; `home` is the directory (descriptor) to come back to.

    Raises:
        CannotStart: no such directory or program, no permission, too large, no processes left, …
    """
    environment = {name.encode(): value.encode() for name, value in message["env"].items()}
    argv = [argument.encode() for argument in message["argv"]]
    given: list[int] = []  # descriptors that only the command needs
    pipes: list[int] = []
    try:
        actions = _plumb(message, given, pipes)
        wall, clock = time.time_ns() // 1_000_000, time.monotonic()
        pid = _spawn(message["cwd"], home, argv, environment, actions)
    except CannotStart:
        _close(pipes)
        raise
    except OSError as error:
        _close(pipes)
        raise CannotStart(f"no pipes for it: {error.strerror}") from None
    finally:
        _close(given)
    # It runs. If this fails, the keeper must not claim otherwise: it dies, and the job is `lost`.
    return Command(pid, os.pidfd_open(pid), pipes, wall, clock)


def _plumb(message: dict[str, Any], given: list[int], pipes: list[int]) -> list[tuple[int, int, int]]:
    # Pipes, never files: a file opened again through /dev/stderr starts at 0 and overwrites what is there.
    for _ in range(1 if message["merge_stderr"] else 2):
        reading, writing = os.pipe()
        os.set_blocking(reading, False)  # a pipe that was readable may have been drained meanwhile
        pipes.append(reading)
        given.append(writing)
    actions = [(os.POSIX_SPAWN_DUP2, given[0], 1), (os.POSIX_SPAWN_DUP2, given[-1], 2)]
    if message["stdin"]:  # else the command has the keeper's own: /dev/null
        given.append(_file_of(message["stdin"].encode()))
        actions.append((os.POSIX_SPAWN_DUP2, given[-1], 0))
    return actions


def _file_of(text: bytes) -> int:
    # Memory that reads like a file: nobody has to feed it, and a command that reads none of it costs nothing.
    file = os.memfd_create("stdin", os.MFD_CLOEXEC)
    while text:
        text = text[os.write(file, text) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _spawn(
    cwd: str, home: int, argv: list[bytes], environment: dict[bytes, bytes], actions: list[tuple[int, int, int]]
) -> int:
    try:
        os.chdir(cwd.encode())
    except OSError as error:
        raise CannotStart(f"cannot enter the directory {cwd}: {error.strerror}") from None
    try:
        return os.posix_spawn(
            _find(argv[0], environment.get(b"PATH", b"")),
            argv,
            environment,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULTS,
        )
    except OSError as error:
        name = argv[0].decode(errors="replace")
        raise CannotStart(f"cannot start {name}: {error.strerror}") from None
    finally:
        os.fchdir(home)


def _find(program: bytes, path: bytes) -> bytes:
    # execvp(3) would look along the keeper's own PATH; the job's is what counts.
    if b"/" in program:
        return program
    for directory in path.split(b":"):
        candidate = os.path.join(directory or b".", program)
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    raise CannotStart(f"cannot start {program.decode(errors='replace')}: not found along PATH")


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


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
