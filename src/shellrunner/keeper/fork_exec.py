"""Start a command by fork, which can do what posix_spawn cannot: set limits, and become another user.

Used by `command` when either is asked for; the child does by hand what posix_spawn does else. The keeper stays as it
is, so a command of another user can neither end nor look into whoever watches it. Must not know jobs.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from .program import Failed, Program, Step
from .stdio import Action

_FAILED = struct.Struct("ii")  # a step and its errno
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
# libc has no keyctl(2), and each architecture its own number for it; where that is unknown, it is taken for missing.
_KEYCTL = {
    "x86_64": 250,
    "i686": 288,
    "armv7l": 311,
    "ppc64le": 271,
    "s390x": 280,
    "aarch64": 219,
    "riscv64": 219,
}.get(os.uname().machine, -1)
_JOIN_SESSION_KEYRING = 1
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes, _syscall.restype = (ctypes.c_long, ctypes.c_long, ctypes.c_char_p), ctypes.c_long


class Limit(NamedTuple):
    """What setrlimit(2) is to be told."""

    resource: int
    soft: int
    hard: int


class User(NamedTuple):
    """Whom a command runs as."""

    uid: int
    gid: int
    groups: list[int]

    @classmethod
    def of(cls, message: dict[str, Any]) -> "User | None":
        """The user that a `start` message asks for; None is the keeper's own."""
        asked = message.get("user")
        return cls(asked["uid"], asked["gid"], asked["groups"]) if asked else None


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


def spawn(
    program: Program,
    *,
    actions: Sequence[Action],
    defaults: Sequence[int],
    limits: Sequence[Limit] = (),
    user: User | None = None,
) -> int:
    """Start it in a session of its own, with nothing blocked and `defaults` at their defaults; return its pid.

    Raises:
        Failed: it could not be started.
        OSError: there could be no child.
    """

    def run() -> NoReturn:
        _prepare(actions, defaults)
        if user:
            _become(user)
        program.enter()
        _execute(program.find(), program, limits)

    reading, writing = os.pipe()  # a successful exec closes it; else it says why there was none
    try:
        try:
            pid = os.fork()
            if pid == 0:
                _end_with(writing, run)
        finally:
            os.close(writing)
        said = os.read(reading, _FAILED.size)
    finally:
        os.close(reading)
    if said:
        os.waitpid(pid, 0)
        step, number = _FAILED.unpack(said)
        raise Failed(Step(step), number)
    return pid


def _end_with(report: int, run: Callable[[], NoReturn]) -> NoReturn:
    said: tuple[int, int] = (Step.EXECUTE, errno.ENOMEM)
    try:
        run()
    except Failed as failed:
        said = (failed.step, failed.number)
    except OSError as error:
        said = (Step.EXECUTE, error.errno or errno.ENOMEM)
    except BaseException:  # noqa: BLE001, S110  MemoryError, say: whatever it is, this must not go on as a second keeper
        pass
    finally:
        try:
            os.write(report, _FAILED.pack(*said))
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


def _become(user: User) -> None:
    # Nothing may be imported from here on: who may run commands here need not be able to read our files.
    _leave_keyring()
    try:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        raise Failed(Step.BECOME, error.errno) from None
    # To these calls -1 means "as it is"; and under odd securebits (capabilities(7)) root's powers survive a change.
    if (os.getresuid(), os.getresgid()) != ((user.uid,) * 3, (user.gid,) * 3) or _is_root_again():
        raise Failed(Step.BECOME, errno.EPERM)


def _leave_keyring() -> None:
    # The session keyring stays through a change of user, and lets whoever has it read root's keys (keyrings(7)). Made
    # before that change, the new one counts towards root's quota: a user's has room for 200 of them.
    if _syscall(_KEYCTL, _JOIN_SESSION_KEYRING, None) < 0:
        number = ctypes.get_errno()
        # A kernel without keys, or a filter over system calls, which is the command's too: it gets at none.
        if number not in (errno.ENOSYS, errno.EPERM):
            raise Failed(Step.BECOME, number)


def _is_root_again() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


def _execute(path: bytes, program: Program, limits: Sequence[Limit]) -> NoReturn:
    words, variables = _array(program.argv), _array([b"%s=%s" % item for item in program.environment.items()])
    for limit in limits:
        resource.setrlimit(limit.resource, (limit.soft, limit.hard))
    _execve(path, words, variables)
    raise Failed(Step.EXECUTE, ctypes.get_errno())


def _open(descriptor: int, path: str, flags: int, mode: int) -> None:
    opened = os.open(path, flags, mode)
    os.dup2(opened, descriptor)  # never the same: 0 to 2 are always taken
    os.close(opened)


def _array(strings: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(strings) + 1))(*strings, None)
