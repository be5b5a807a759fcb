"""Make chosen calls of the fork server and its keepers fail, or end the process there; loaded into them by `program`.

Each call of `os`, `select`, `socket`, `fcntl` that a keeper may make is replaced by one that counts. A plan says
which call fails, from which count on, how often, and how. It arrives inside a message, in an environment variable or
a header named FAULTS, so that the counts begin when that message is received: the next `start` without one clears it.
Standard library only, and nothing of the program's own.

    FAULTS=role:call:first:times:fault:run      k:os.pwrite:3:1:EIO:17

`role` is f (the fork server), k (a keeper), c (a keeper's child before its exec). `times` 0 is for ever. `fault` is
an errno's name, `short` (half of it is written), `before` or `after` (the process ends before or after the call).
Each run that is hit leaves a line in `hits` in the state directory.
"""

import errno
import fcntl
import os
import re
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

_FAULTS = re.compile(rb'"FAULTS":"([^"]*)"')
_ROLES = "fkc"
_OS = (
    "open", "close", "read", "write", "pwrite", "fsync", "lseek", "unlink", "posix_fallocate", "fstat", "fchmod",
    "fchown", "pipe", "dup", "dup2", "set_blocking", "memfd_create", "openpty", "ttyname", "listdir", "readlink",
    "access", "posix_spawn", "pidfd_open", "waitid", "waitpid", "wait4", "killpg", "chdir", "fchdir", "setsid",
)  # fmt: skip
_SOCKET = ("accept", "bind", "connect", "listen", "recv", "send", "sendmsg", "recvmsg", "close", "shutdown")
CALLS = (
    *(f"os.{name}" for name in _OS), "os.fork",
    *(f"socket.{name}" for name in _SOCKET), "socket.socket", "socket.pair",
    "fcntl.flock", "fcntl.ioctl", "poll.poll", "signal.wakeup", "signal.pidfd", "resource.setrlimit",
)  # fmt: skip

_os_read, _os_write, _os_open, _os_close = os.read, os.write, os.open, os.close
_os_exit, _os_fork = os._exit, os.fork


class Plan(NamedTuple):
    """What fails in one run."""

    role: str
    call: str
    first: int
    times: int  # 0: for ever
    fault: str
    run: str

    @classmethod
    def parse(cls, text: str) -> "Plan":
        """Return the plan that `str` wrote."""
        role, call, first, times, fault, run = text.split(":")
        return cls(role, call, int(first), int(times), fault, run)

    def __str__(self) -> str:
        return ":".join(map(str, self))


class Injector:
    """The plan of this process, and how often each call was made since it arrived."""

    def __init__(self, state: str) -> None:
        """Note hits in the state directory."""
        self._plan: Plan | None = None
        self._depth = 0  # 0 in the fork server, 1 in a keeper, 2 in its child
        self._count = 0
        self._hits = state + "/hits"

    def install(self) -> None:
        """Replace the calls."""
        for name in _OS:
            setattr(os, name, self._counted(f"os.{name}", getattr(os, name)))
        os.fork = self._counted("os.fork", self._fork)
        for name in _SOCKET:
            setattr(socket.socket, name, self._counted(f"socket.{name}", getattr(socket.socket, name)))
        socket.socket.recv = self._receiving(socket.socket.recv)  # type: ignore[method-assign]
        socket.socket.recvmsg = self._receiving(socket.socket.recvmsg)  # type: ignore[method-assign]
        socket.socket = self._counted_class(socket.socket)  # type: ignore[misc]
        socket.socketpair = self._counted("socket.pair", socket.socketpair)
        fcntl.flock = self._counted("fcntl.flock", fcntl.flock)
        fcntl.ioctl = self._counted("fcntl.ioctl", fcntl.ioctl)
        signal.set_wakeup_fd = self._counted("signal.wakeup", signal.set_wakeup_fd)
        signal.pidfd_send_signal = self._counted("signal.pidfd", signal.pidfd_send_signal)
        resource.setrlimit = self._counted("resource.setrlimit", resource.setrlimit)
        select.poll = self._counted_poll(select.poll)  # type: ignore[misc,assignment]

    def _counted(self, call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*arguments: Any, **named: Any) -> Any:
            fault = self._fault(call)
            if fault is None:
                return real(*arguments, **named)
            if fault == "short":
                return real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], *arguments[2:])
            if fault == "before":
                _os_exit(97)
            if fault == "after" or call == "os.close":  # close(2): the descriptor is gone, whatever it returns
                real(*arguments, **named)
            if fault == "after":
                _os_exit(98)
            number = getattr(errno, fault)
            raise OSError(number, os.strerror(number))

        return replacement

    def _fault(self, call: str) -> str | None:
        plan = self._plan
        if plan is None or plan.call != call or plan.role != _ROLES[self._depth]:
            return None
        self._count += 1
        if self._count < plan.first or (plan.times and self._count >= plan.first + plan.times):
            return None
        hits = _os_open(self._hits, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        if plan.fault in ("before", "after") and f"{plan} " in _os_read(hits, 1 << 24).decode():
            _os_close(hits)
            return None  # the job was queued again, with its plan
        _os_write(hits, f"{plan.run} {plan} {self._count}\n".encode())
        _os_close(hits)
        return plan.fault

    def _fork(self) -> int:
        pid = _os_fork()
        if pid == 0:
            self._depth += 1
            self._count = 0
        return pid

    def _receiving(self, receive: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*arguments: Any, **named: Any) -> Any:
            result = receive(*arguments, **named)
            data = result if isinstance(result, bytes) else result[0]
            found = _FAULTS.search(data)
            if found or b'"do":"start"' in data or b'"do":"fork"' in data:
                self._plan, self._count = Plan.parse(found[1].decode()) if found else None, 0
            return result

        return replacement

    def _counted_class(self, real: Any) -> Any:
        injector = self

        class CountedSocket(real):  # type: ignore[misc]
            def __init__(self, *arguments: Any, **named: Any) -> None:
                fault = injector._fault("socket.socket")
                if fault in ("before", "after"):
                    _os_exit(97)
                if fault:
                    raise OSError(getattr(errno, fault), "injected")
                super().__init__(*arguments, **named)

        return CountedSocket

    def _counted_poll(self, real: Callable[[], Any]) -> Callable[[], Any]:
        counted = self._counted

        class CountedPoll:
            def __init__(self) -> None:
                poll = real()
                self.poll = counted("poll.poll", poll.poll)
                self.register, self.modify, self.unregister = poll.register, poll.modify, poll.unregister

        return CountedPoll


def install() -> None:
    """Replace the calls of the process that this program has become: `… CONNECTION STATE_DIR`."""
    Injector(sys.argv[2]).install()
