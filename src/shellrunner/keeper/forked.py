"""Start a command under resource limits: by fork, since posix_spawn cannot set them and the keeper's must not change.

Used by `command` when limits are asked for; the child does by hand what posix_spawn does else. Must not know jobs.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from .plumbing import Action

_ERRNO = struct.Struct("i")
_CPU_GRACE = 5  # seconds of CPU time between SIGXCPU and SIGKILL (setrlimit(2))
# Memory comes last: from then on the child can hardly allocate anything.
_RESOURCES = {
    "cpu_seconds": resource.RLIMIT_CPU,
    "processes": resource.RLIMIT_NPROC,
    "open_files": resource.RLIMIT_NOFILE,
    "memory_bytes": resource.RLIMIT_AS,
}
# os.execve makes its own copies of arguments and environment, for which there may be no memory under the limit.
_execve = ctypes.CDLL(None, use_errno=True).execve
_execve.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)


class Limit(NamedTuple):
    """What setrlimit(2) is to be told."""

    resource: int
    soft: int
    hard: int


def within(limits: dict[str, int | None] | None) -> list[Limit]:
    """The limits that a `start` message asks for, none of them above what the keeper itself may have."""
    asked = limits or {}
    return [_limit(which, number) for name, which in _RESOURCES.items() if (number := asked.get(name)) is not None]


def _limit(which: int, number: int) -> Limit:
    _, most = resource.getrlimit(which)
    hard = number + _CPU_GRACE if which == resource.RLIMIT_CPU else number
    return (
        Limit(which, number, hard)
        if most == resource.RLIM_INFINITY
        else Limit(which, min(number, most), min(hard, most))
    )


def spawn(  # called as os.posix_spawn is
    path: bytes,
    argv: Sequence[bytes],
    environment: dict[bytes, bytes],
    *,
    file_actions: Sequence[Action],
    setsigdef: Sequence[int],
    limits: Sequence[Limit],
) -> int:
    """Start it in a session of its own, with nothing blocked; return its pid.

    Raises:
        OSError: it could not be started; the same as posix_spawn would raise.
    """

    def become() -> int:
        _prepare(file_actions, setsigdef)
        return _exec(path, argv, environment, limits)

    reading, writing = os.pipe()  # a successful exec closes it; else it says why there was none
    try:
        try:
            pid = os.fork()
            if pid == 0:
                _end_with(writing, become)
        finally:
            os.close(writing)
        said = os.read(reading, _ERRNO.size)
    finally:
        os.close(reading)
    if said:
        os.waitpid(pid, 0)
        (number,) = _ERRNO.unpack(said)
        raise OSError(number, os.strerror(number))
    return pid


def _end_with(report: int, become: Callable[[], int]) -> NoReturn:
    number = errno.ENOMEM
    try:
        number = become()
    except OSError as error:
        number = error.errno or number
    except BaseException:  # noqa: BLE001, S110  MemoryError, say: whatever it is, this must not go on as a second keeper
        pass
    finally:
        try:
            os.write(report, _ERRNO.pack(number))
        finally:
            os._exit(127)


def _prepare(actions: Sequence[Action], defaults: Sequence[int]) -> None:
    os.setsid()
    for signum in defaults:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for kind, *arguments in actions:
        if kind == os.POSIX_SPAWN_DUP2:
            os.dup2(*arguments)
        else:
            _open(*arguments)


def _exec(path: bytes, argv: Sequence[bytes], environment: dict[bytes, bytes], limits: Sequence[Limit]) -> int:
    words, variables = _array(argv), _array([b"%s=%s" % item for item in environment.items()])
    for limit in limits:
        resource.setrlimit(limit.resource, (limit.soft, limit.hard))
    _execve(path, words, variables)
    return ctypes.get_errno()


def _open(descriptor: int, path: str, flags: int, mode: int) -> None:
    opened = os.open(path, flags, mode)
    os.dup2(opened, descriptor)  # never the same: 0 to 2 are always taken
    os.close(opened)


def _array(strings: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(strings) + 1))(*strings, None)
