"""Start a command in namespaces of its own, which bubblewrap (bwrap(1)) makes.

Used by `command` for a job with a profile; the message has bubblewrap's arguments, and this module must not know
what they confine. Two calls of bubblewrap, so that the command is this keeper's own child all the same, and its wait
status is the kernel's, not one that a wrapper reports, for which exit 139 and death by SIGSEGV are the same:

    keeper ── bwrap ── init        pid 1 of the pid namespace: a shell that waits for the end of its input; confined
       │                           as the command is, which may trace it
       └──── (bwrap) ── command    in the namespaces of init; its bwrap is killed once the command is ready to be
                                   executed, which thereby becomes a child of this subreaper

With init every process of the pid namespace ends. It ends if this keeper does, which alone writes to its input.
"""

import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import time
from binascii import a2b_base64
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from .fork_exec import ResourceLimit, TargetUser, spawn, switch_user
from .identity import start_time, stat_fields
from .program import Program, StartStep, StepFailed
from .stdio import Action, Stdio

_INIT = [b"/bin/sh", b"-c", b'trap "" CHLD; echo; read line']  # SIGCHLD is ignored, so the kernel reaps its orphans
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)
_FLAGS, _PF_FORKNOEXEC = 6, 0x40  # in /proc/pid/stat: it has executed no program since its fork (linux/sched.h)
_TIMEOUT = 20.0  # seconds; network file systems may be slow
_POLL_INTERVAL = 0.5  # milliseconds
_MAX_REASON = 2_000  # bytes


class CannotConfine(Exception):
    """Bubblewrap could not apply the profile, or execute the command under it; the text says why."""


class Sandbox:
    """The namespaces of one command; `helpers` are the processes that hold them, as (pid, start time)."""

    def __init__(self, monitor: int, init: int, lifeline: socket.socket) -> None:
        """Take the pids of init and of its bwrap, and the socket that init reads from.

        Raises:
            OSError: init has ended already.
        """
        self.init, self._lifeline = init, lifeline
        self.helpers = frozenset((pid, start_time(pid)) for pid in (monitor, init))
        self._pidfd = os.pidfd_open(init)

    def end(self) -> None:
        """End init, and with it everything in the namespaces; a second call does nothing."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            with suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _close(pidfd)
            self._lifeline.close()

    def abandon(self) -> None:
        """End it, and wait until all of its processes are gone: the command was not started."""
        self.end()
        with suppress(ChildProcessError):
            while True:  # init's end waits for that of a child of ours in its namespace
                os.waitpid(-1, 0)


def spawn_confined(
    program: Program,
    stdio: Stdio,
    sandbox: dict[str, Any],
    *,
    default_signals: Sequence[int],
    limits: Sequence[ResourceLimit],
    user: TargetUser | None,
) -> tuple[int, Sandbox]:
    """Start the program in a sandbox, as the leader of a process group; return its pid and the sandbox.

    Its environment is passed to bubblewrap in memory: it shows up in no command line, and does not apply to
    bubblewrap itself, which LD_PRELOAD would take over.

    Raises:
        CannotConfine: nothing was executed, and no process is left.
        StepFailed: the same; the user cannot be switched to.
        OSError: no processes or descriptors left.
    """
    with ExitStack() as stack:
        bubblewrap = _Bubblewrap(stack, sandbox, default_signals, user)
        try:
            namespaces = bubblewrap.make_namespaces()
            try:
                return bubblewrap.start(program, stdio, limits, namespaces), namespaces
            except BaseException:
                namespaces.abandon()
                raise
        except TimeoutError:
            raise CannotConfine(f"not ready after {_TIMEOUT:g} s") from None
        except StepFailed as failed:
            if failed.step is StartStep.SWITCH_USER:
                raise
            raise CannotConfine(f"cannot start {sandbox['bwrap']}: {os.strerror(failed.errno)}") from None


class _Bubblewrap:
    """Both calls of bubblewrap; the stack closes what is only needed for them."""

    def __init__(
        self, stack: ExitStack, sandbox: dict[str, Any], default_signals: Sequence[int], user: TargetUser | None
    ) -> None:
        self._stack, self._path = stack, sandbox["bwrap"].encode()
        self._arguments = [word.encode() for word in sandbox["arguments"]]
        self._filter = a2b_base64(sandbox["system_calls"] or "")
        self._default_signals, self._user = default_signals, user
        self._deadline = time.monotonic() + _TIMEOUT
        self._inherited: list[int] = []  # by the bubblewrap that is started next

    def make_namespaces(self) -> Sandbox:
        """Start init."""
        lifeline, lifeline_end = socket.socketpair()
        with lifeline_end:
            ready, ready_end = self._socketpair()
            errors, errors_end = self._socketpair()
            status, status_end = self._socketpair()
            actions = [(os.POSIX_SPAWN_DUP2, end.fileno(), number)
                       for number, end in enumerate((lifeline_end, ready_end, errors_end))]  # fmt: skip
            options = [b"--unshare-user", b"--disable-userns", b"--unshare-pid", b"--as-pid-1", b"--new-session",
                       b"--json-status-fd", self._inherit(status_end.fileno())]  # fmt: skip
            monitor = self._spawn(options, _INIT, actions, environment={})
        for end in (ready_end, errors_end, status_end):
            end.close()
        try:
            if self._receive(ready):
                return Sandbox(monitor, _child_pid(self._receive_line(status)), lifeline)
            reason = _clean(self._receive(errors))
        except BaseException:
            lifeline.close()
            _kill(monitor)
            raise
        lifeline.close()
        _kill(monitor)
        raise CannotConfine(reason)

    def start(self, program: Program, stdio: Stdio, limits: Sequence[ResourceLimit], namespaces: Sandbox) -> int:
        """Start the command; return its pid."""
        status, status_end = self._socketpair()
        setup, setup_end = self._socketpair()
        barrier, barrier_end = self._socketpair()
        options = [
            *self._join(namespaces), b"--assert-userns-disabled", *([] if stdio.is_terminal else [b"--new-session"]),
            b"--json-status-fd", self._inherit(status_end.fileno()),
            b"--block-fd", self._inherit(barrier_end.fileno()),
            # Read to its end while the file systems are set up; they hide this file.
            b"--file", self._inherit(setup_end.fileno()), b"/.setup", b"--chdir", program.cwd,
        ]  # fmt: skip
        monitor = self._spawn(
            options, program.argv, stdio.actions, environment=program.environment, on_terminal=stdio.is_terminal
        )
        for end in (status_end, setup_end, barrier_end):
            end.close()
        try:
            line = self._receive_line(status)
            setup.shutdown(socket.SHUT_WR)
            # Closed by bwrap after it has let its child run, and by the child when that has read its end: from here
            # on the child needs no bwrap.
            self._receive(setup)
        finally:
            _kill(monitor)
        if not line:
            raise CannotConfine(_reason(stdio))
        pid = _child_pid(line)
        try:
            self._prepare(pid, stdio, limits)
            barrier.close()
            self._wait_executed(pid, stdio)
        except BaseException:
            _kill(pid)
            raise
        return pid

    def _prepare(self, pid: int, stdio: Stdio, limits: Sequence[ResourceLimit]) -> None:
        """Apply what could hinder bubblewrap to the process that is to execute the command."""
        if not _is_own_child(pid):
            raise CannotConfine(_reason(stdio))
        if stdio.is_terminal:
            stdio.enter_foreground(pid)
        if limits and self._user is None:
            _limit(pid, limits)
        elif limits and self._user:
            _limit_as(self._user, pid, limits)

    def _wait_executed(self, pid: int, stdio: Stdio) -> None:
        """Wait until the process has executed the command.

        Raises:
            CannotConfine: it ended before that.
        """
        pidfd = os.pidfd_open(pid)
        self._stack.callback(_close, pidfd)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        while int(stat_fields(pid)[_FLAGS]) & _PF_FORKNOEXEC:  # a zombie keeps its flags
            if ended.poll(0) and int(stat_fields(pid)[_FLAGS]) & _PF_FORKNOEXEC:
                raise CannotConfine(_reason(stdio))
            if time.monotonic() > self._deadline:
                raise TimeoutError
            ended.poll(_POLL_INTERVAL)

    def _join(self, namespaces: Sandbox) -> list[bytes]:
        """Return the options by which bubblewrap joins the namespaces of init."""
        pid_namespace = self._open(f"/proc/{namespaces.init}/ns/pid")
        inner = self._open(f"/proc/{namespaces.init}/ns/user")
        # In the outer one root is mapped, without which bubblewrap cannot mount what it has to.
        outer = fcntl.ioctl(pid_namespace, _NS_GET_USERNS)
        self._stack.callback(_close, outer)
        # The command inherits these three: bwrap closes them nowhere. Without a capability they are of no use to it.
        return [b"--userns", self._inherit(outer), b"--userns2", self._inherit(inner),
                b"--pidns", self._inherit(pid_namespace)]  # fmt: skip

    def _spawn(
        self,
        options: Sequence[bytes],
        words: Sequence[bytes],
        actions: Sequence[Action],
        *,
        environment: dict[bytes, bytes],
        on_terminal: bool = False,
    ) -> int:
        variables = [word for name, value in environment.items() for word in (b"--setenv", name, value)]
        seccomp = [b"--seccomp", self._memory_file(self._filter)] if self._filter else []
        given = b"".join(word + b"\0" for word in (*options, *seccomp, *self._arguments, *variables))
        argv = [self._path, b"--args", self._memory_file(given), b"--", *words]
        try:
            return spawn(
                Program(argv, {}, b"/"),
                actions=actions,
                default_signals=self._default_signals,
                user=self._user,
                on_terminal=on_terminal,
                has_own_keyring=True,
            )
        finally:
            for descriptor in self._inherited:
                os.set_inheritable(descriptor, False)
            self._inherited.clear()

    def _inherit(self, descriptor: int) -> bytes:
        """Let the next bubblewrap inherit the descriptor; return its number for the command line."""
        os.set_inheritable(descriptor, True)
        self._inherited.append(descriptor)
        return b"%d" % descriptor

    def _memory_file(self, content: bytes) -> bytes:
        """Return the number of an inherited descriptor from which bubblewrap reads this."""
        descriptor = os.memfd_create("bwrap")
        self._stack.callback(_close, descriptor)
        while content:
            content = content[os.write(descriptor, content) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        return self._inherit(descriptor)

    def _open(self, path: str) -> int:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(_close, descriptor)
        return descriptor

    def _socketpair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        return self._stack.enter_context(ours), self._stack.enter_context(theirs)

    def _receive(self, source: socket.socket) -> bytes:
        source.settimeout(max(self._deadline - time.monotonic(), 0.001))
        with suppress(ConnectionResetError):
            return source.recv(_MAX_REASON)
        return b""

    def _receive_line(self, source: socket.socket) -> bytes:
        line = b""
        while not line.endswith(b"\n") and (more := self._receive(source)):
            line += more
        return line


def _limit(pid: int, limits: Sequence[ResourceLimit]) -> None:
    for limit in limits:
        resource.prlimit(pid, limit.resource, (limit.soft, limit.hard))


def _limit_as(user: TargetUser, pid: int, limits: Sequence[ResourceLimit]) -> None:
    """Limit a process of this user as that user: as another one, prlimit(2) needs CAP_SYS_RESOURCE.

    Raises:
        OSError: it could not be done.
    """
    child = os.fork()
    if child == 0:
        number = errno.EPERM
        try:
            switch_user(user)
            _limit(pid, limits)
            number = 0
        except OSError as error:
            number = error.errno or number
        finally:
            os._exit(number)
    _, status = os.waitpid(child, 0)
    if number := os.waitstatus_to_exitcode(status):
        raise OSError(number, f"its limits cannot be set: {os.strerror(number)}")


def _child_pid(line: bytes) -> int:
    return int(json.loads(line)["child-pid"])


def _is_own_child(pid: int) -> bool:
    with suppress(ProcessLookupError):
        return int(stat_fields(pid)[1]) == os.getpid()
    return False


def _reason(stdio: Stdio) -> str:
    """Return what bubblewrap wrote to the command's standard error before it failed."""
    with suppress(OSError):  # nothing
        return _clean(os.read(stdio.pipes[-1], _MAX_REASON))
    return _clean(b"")


def _clean(text: bytes) -> str:
    lines = text.decode(errors="replace").splitlines()
    line = "; ".join(line.removeprefix("bwrap: ") for line in lines if line) or "bubblewrap was killed"
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def _kill(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    with suppress(OSError):
        os.waitpid(pid, 0)


def _close(descriptor: int) -> None:
    with suppress(OSError):  # it is free all the same (close(2))
        os.close(descriptor)
