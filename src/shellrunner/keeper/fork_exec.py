"""Start a command by fork and exec, which can do what posix_spawn cannot: limits, users, a terminal's foreground.

Used by `command` when one is requested; the child does by itself what posix_spawn does otherwise. The keeper keeps
its own user, so a command of another one can neither kill nor inspect it. Must not know jobs.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from .program import Program, StartStep, StepFailed
from .stdio import Action, close

_FAILURE = struct.Struct("ii")  # a step and its errno
_MAX_TRIES = 10  # of a read or write between us and the child: silence means that it runs
_CPU_GRACE = 5  # seconds of CPU time between SIGXCPU and SIGKILL (setrlimit(2))
# Memory is last: once it is set, the child can hardly allocate anything.
_RESOURCES = {
    "cpu_seconds": resource.RLIMIT_CPU,
    "processes": resource.RLIMIT_NPROC,
    "open_files": resource.RLIMIT_NOFILE,
    "memory_bytes": resource.RLIMIT_AS,
}
# Not os.execve: it copies arguments and environment, for which the limit may leave no memory.
_execve = ctypes.CDLL(None, use_errno=True).execve
_execve.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)
# libc has no keyctl(2), and its number depends on the architecture; where it is unknown, keys count as unsupported.
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


class ResourceLimit(NamedTuple):
    """The arguments of setrlimit(2)."""

    resource: int
    soft: int
    hard: int


class TargetUser(NamedTuple):
    """The user that a command runs as."""

    uid: int
    gid: int
    groups: list[int]

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "TargetUser | None":
        """Return the user of a `start` message; None is the keeper's own."""
        user = message.get("user")
        return cls(user["uid"], user["gid"], user["groups"]) if user else None


def requested_limits(limits: dict[str, int | None] | None) -> list[ResourceLimit]:
    """Return the limits of a `start` message, lowered to the keeper's own hard limits."""
    wanted = limits or {}
    return [_limit(which, value) for name, which in _RESOURCES.items() if (value := wanted.get(name)) is not None]


def _limit(which: int, soft: int) -> ResourceLimit:
    _, own_hard = resource.getrlimit(which)
    hard = soft + _CPU_GRACE if which == resource.RLIMIT_CPU else soft
    if own_hard == resource.RLIM_INFINITY:
        return ResourceLimit(which, soft, hard)
    return ResourceLimit(which, min(soft, own_hard), min(hard, own_hard))


def spawn(
    program: Program,
    *,
    actions: Sequence[Action],
    default_signals: Sequence[int],
    limits: Sequence[ResourceLimit] = (),
    user: TargetUser | None = None,
    on_terminal: bool = False,
    has_own_keyring: bool = False,
) -> int:
    """Start the program in a session of its own, with no signal blocked and these signals reset; return its pid.

    With `on_terminal` it is in this process's session, and its group is the foreground of the terminal at 0.
    `has_own_keyring`: it does not share the session keyring, as it never does with another user.

    Raises:
        StepFailed: it could not be started.
        OSError: no child process could be made.
    """

    def run() -> NoReturn:
        _prepare_child(actions, default_signals, on_terminal=on_terminal)
        if user or has_own_keyring:
            # Nothing may be imported from here on: the command's user may not be able to read our files.
            _leave_keyring()
        if user:
            switch_user(user)
        program.enter()
        _execute(program.find(), program, limits)

    reading, writing = os.pipe()  # a successful exec closes it; otherwise the child writes why it failed
    try:
        pid = os.fork()
        if pid == 0:
            _exec_or_report(writing, run)
    except OSError:
        close(writing, reading)
        raise
    close(writing)
    failure = _read_failure(reading)
    close(reading)
    if failure:
        with suppress(OSError):  # else it is reaped like any orphan
            os.waitpid(pid, 0)
        step, number = _FAILURE.unpack(failure)
        raise StepFailed(StartStep(step), number)
    return pid


def _read_failure(reading: int) -> bytes:
    for _ in range(_MAX_TRIES):
        with suppress(OSError):
            return os.read(reading, _FAILURE.size)
    return b""  # for all that is known, it runs


def _exec_or_report(report: int, run: Callable[[], NoReturn]) -> NoReturn:
    failure: tuple[int, int] = (StartStep.EXECUTE, errno.ENOMEM)
    try:
        run()
    except StepFailed as failed:
        failure = (failed.step, failed.errno)
    except OSError as error:
        failure = (StartStep.EXECUTE, error.errno or errno.ENOMEM)
    except BaseException:  # noqa: BLE001, S110  for example MemoryError: this must not go on as a second keeper
        pass
    finally:
        try:
            _report(report, _FAILURE.pack(*failure))
        finally:
            os._exit(127)


def _report(report: int, failure: bytes) -> None:
    for _ in range(_MAX_TRIES):
        with suppress(OSError):
            os.write(report, failure)
            return


def _prepare_child(actions: Sequence[Action], default_signals: Sequence[int], *, on_terminal: bool) -> None:
    for _, *descriptors in actions:
        os.dup2(*descriptors)
    if on_terminal:
        _enter_foreground()
    else:
        os.setsid()
    for signum in default_signals:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _enter_foreground() -> None:
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])  # else it would stop us: we are not in it yet
    os.tcsetpgrp(0, os.getpgrp())


def switch_user(user: TargetUser) -> None:
    """Become the user, for good.

    Raises:
        StepFailed: that is not possible, or not for good.
    """
    try:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        raise StepFailed(StartStep.SWITCH_USER, error.errno) from None
    # To these calls -1 means "unchanged"; and with some securebits (capabilities(7)) root's capabilities survive.
    if (os.getresuid(), os.getresgid()) != ((user.uid,) * 3, (user.gid,) * 3) or _can_become_root():
        raise StepFailed(StartStep.SWITCH_USER, errno.EPERM)


def _leave_keyring() -> None:
    # The session keyring survives a switch of the user, and gives access to root's keys (keyrings(7)). The new one is
    # made before the switch, so that it counts towards root's quota: a user's allows only 200 keys.
    if _syscall(_KEYCTL, _JOIN_SESSION_KEYRING, None) < 0:
        number = ctypes.get_errno()
        # The kernel has no keys, or a system call filter, which the command inherits: it cannot use any.
        if number not in (errno.ENOSYS, errno.EPERM):
            raise StepFailed(StartStep.SWITCH_USER, number)


def _can_become_root() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


def _execute(path: bytes, program: Program, limits: Sequence[ResourceLimit]) -> NoReturn:
    argv, environment = (
        _c_strings(program.argv),
        _c_strings([b"%s=%s" % item for item in program.environment.items()]),
    )
    for limit in limits:
        resource.setrlimit(limit.resource, (limit.soft, limit.hard))
    _execve(path, argv, environment)
    raise StepFailed(StartStep.EXECUTE, ctypes.get_errno())


def _c_strings(strings: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(strings) + 1))(*strings, None)
