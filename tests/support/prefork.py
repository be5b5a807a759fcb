"""Start the program as a child of a process that has imported it already, in 10 ms instead of 400.

One such process (`prefork_server.py`) serves one pytest worker and one locale; it is started when it is first needed,
and ends with the worker. Its children have the environment, directory, descriptors, umask, limits and signals that
were asked for, as `tests/test_prefork.py` compares with a real start. What it cannot do, another Python, options or
variables of Python's own, is started really.
"""

import asyncio
import atexit
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from asyncio import base_subprocess
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process, SubprocessStreamProtocol
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import measurement

MODULE = [sys.executable, "-m", "shellrunner"]
SCRIPT = [str(Path(sys.executable).with_name("shellrunner"))]
_SERVER = Path(__file__).with_name("prefork_server.py")
_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
# Python's start depends on these; each combination has a process of its own.
_LOCALE = ("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES")
# Python and its C library have changed what they inherit in these, and a fresh process changes it again.
_RESET_AT_START = {signal.SIGPIPE, signal.SIGXFSZ}
# Variables that count when Python, its libraries or aiohttp are loaded: too late for a forked process.
_READ_AT_START = ("PYTHON", "LD_", "MALLOC_", "AIOHTTP_")
_USE_REAL_EXEC = "SHELLRUNNER_TESTS_REAL_EXEC" in os.environ


class PipedProcess(Process):
    """A process of asyncio, as far as tests use it, whose standard streams are pipes."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    _transport: asyncio.SubprocessTransport


def pipe_transport(process: PipedProcess, number: int) -> Any:
    """Return the transport of our end of a standard stream."""
    return process._transport.get_pipe_transport(number)


class StartedProcess(Process):
    """A process of asyncio that a signal never waits for.

    `Popen.send_signal` calls poll(), which may find the process ended before the thread in which asyncio waits for
    it: asyncio then knows no exit code, and says 255.
    """

    _transport: asyncio.SubprocessTransport
    _protocol: asyncio.SubprocessProtocol
    _loop: asyncio.AbstractEventLoop

    def send_signal(self, signal: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkedProcess:
    """A child of the prefork server, with the members of `subprocess.Popen` that asyncio uses."""

    def __init__(self, report: socket.socket) -> None:
        self._report = report
        pid, (self._pidfd,), _, _ = socket.recv_fds(report, 32, 1)
        self.pid = int(pid)
        self.returncode: int | None = None
        self.stdin: Any = None
        self.stdout: Any = None
        self.stderr: Any = None

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the process has ended."""
        return self._report.fileno()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs.

        The report stays in its socket: a loop that waits for it has to find it there, even if it was read before.
        """
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                self.returncode = int(self._report.recv(32, socket.MSG_DONTWAIT | socket.MSG_PEEK))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Forget the process, which goes on if it runs."""
        self._report.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __del__(self) -> None:
        self.close()


class PreforkServer:
    """The process that forks, for one locale."""

    def __init__(self, locale: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, _SERVER, str(theirs.fileno()), *locale],
                env={
                    "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **locale,
                    **measurement.ENVIRONMENT, "FORK_SERVER": measurement.fork_server_program(),
                },
                pass_fds=[theirs.fileno()], stdin=DEVNULL, stdout=DEVNULL, cwd="/",
            )  # fmt: skip
        atexit.register(self.close)

    def close(self) -> None:
        """Let it end; its children go on."""
        self._control.close()
        self._process.wait(20)

    def fork(
        self, program: Sequence[str], environment: Mapping[str, str], *, streams: Sequence[int], cwd: Any = None,
        umask: int = -1, pass_fds: Sequence[int] = (), start_new_session: bool = False,
        controlling_terminal: bool = False,
    ) -> ForkedProcess:  # fmt: skip
        """Fork a child that runs `program`, the arguments of a Python.

        `controlling_terminal`: its standard input becomes that of its new session.
        """
        request = {
            "program": list(program), "environment": dict(environment), "passed": list(pass_fds),
            "umask": _umask() if umask < 0 else umask,
            "limits": [(kind, resource.getrlimit(kind)) for kind in _LIMITS],
            "ignored": [each for each in signal.valid_signals() - _RESET_AT_START if _is_ignored(each)],
            "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "new_session": start_new_session or controlling_terminal, "controlling_terminal": controlling_terminal,
        }  # fmt: skip
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = os.memfd_create("request")
        directory = os.open(cwd or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            os.write(message, json.dumps(request).encode())
            with theirs:
                sent = [theirs.fileno(), message, directory, *streams, *pass_fds]
                socket.send_fds(self._control, [b"f"], sent)
            return ForkedProcess(ours)
        finally:
            os.close(message)
            os.close(directory)


_servers: dict[tuple[tuple[str, str], ...], PreforkServer] = {}


def server_for(environment: Mapping[str, str]) -> PreforkServer:
    """Return the process that forks in this environment's locale."""
    locale = {name: environment[name] for name in _LOCALE if name in environment}
    key = tuple(sorted(locale.items()))
    if key not in _servers:
        _servers[key] = PreforkServer(locale)
    return _servers[key]


def _umask() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def python_arguments(program: Sequence[str], environment: Mapping[str, str]) -> list[str] | None:
    """Return what a forked Python is to run for this program, or None where only a real start will do."""
    if _USE_REAL_EXEC or any(name.startswith(_READ_AT_START) for name in environment):
        return None
    if list(program[:1]) == SCRIPT:
        return list(program)
    if (program[0] == sys.executable and program[1] == "-c") or list(program[:3]) == MODULE:
        return list(program[1:])
    return None


class _Transport(base_subprocess.BaseSubprocessTransport):
    """Asyncio's own subprocess transport, on a forked process."""

    _proc: Any

    def _start(self, *, args: Any, stdin: Any, stdout: Any, stderr: Any, **more: Any) -> None:  # type: ignore[override]
        del more["shell"], more["bufsize"]
        theirs: list[int] = []
        with contextlib.ExitStack() as stack:
            ours: list[Any] = [None] * 3
            for number, given in enumerate((stdin, stdout, stderr)):
                if given == PIPE:
                    reading, writing = os.pipe()
                    child, parent = (reading, writing) if number == 0 else (writing, reading)
                    stack.callback(os.close, child)
                    ours[number] = open(parent, "wb" if number == 0 else "rb", 0)  # noqa: SIM115  asyncio closes it
                elif given == DEVNULL:
                    child = os.open(os.devnull, os.O_RDWR)
                    stack.callback(os.close, child)
                elif given == STDOUT:
                    child = theirs[1]
                else:
                    child = number if given is None else given if isinstance(given, int) else given.fileno()
                theirs.append(child)
            process = server_for(more["environment"]).fork(args, streams=theirs, **more)
        process.stdin, process.stdout, process.stderr = ours
        self._proc = process
        self._loop.add_reader(process.fileno(), self._ended)

    def _ended(self) -> None:
        process = self._proc
        self._loop.remove_reader(process.fileno())
        status = process.poll()
        process.close()
        self._process_exited(status)


async def exec_process(*program: str, **options: Any) -> Process:
    """Start a program as `asyncio.create_subprocess_exec` does; its exit code is known even if a signal came late."""
    process: Any = await asyncio.create_subprocess_exec(*program, **options)
    return StartedProcess(process._transport, process._protocol, process._loop)


async def create_process(
    *program: str, env: Mapping[str, str], stdin: Any = None, stdout: Any = None, stderr: Any = None,
    limit: int = 1 << 24, real_exec: bool = False, **options: Any,
) -> Process:  # fmt: skip
    """Start a program as `asyncio.create_subprocess_exec` does, by a fork of the prefork server where that serves.

    `options` are cwd, umask, pass_fds and start_new_session.
    """
    arguments = None if real_exec else python_arguments(program, env)
    if arguments is None:
        return await exec_process(
            *program, env=env, stdin=stdin, stdout=stdout, stderr=stderr, limit=limit, **options
        )
    loop = asyncio.get_running_loop()
    protocol = SubprocessStreamProtocol(limit, loop)
    waiter = loop.create_future()
    transport = _Transport(
        loop, protocol, arguments, False, stdin, stdout, stderr, 0, waiter, environment=env, **options
    )
    await waiter
    return Process(transport, protocol, loop)


async def create_in_terminal(*program: str, env: Mapping[str, str], terminal: int) -> Process:
    """Start a program in a session of its own whose terminal is `terminal`, as a terminal emulator does."""
    if python_arguments(program, env) is None:
        shell = ["/bin/sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(terminal)]
        return await exec_process(*shell, *program, env=env, start_new_session=True)
    streams: dict[str, Any] = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    return await create_process(*program, env=env, controlling_terminal=True, **streams)


def run(
    program: Sequence[str], *, env: Mapping[str, str], given: bytes | None = None, timeout: float = 30,
    check: bool = False, real_exec: bool = False, **options: Any,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a program to its end, as `subprocess.run` does, and return what it wrote as text."""

    async def finish() -> subprocess.CompletedProcess[str]:
        streams: dict[str, Any] = {
            "stdin": DEVNULL if given is None else PIPE,
            "stdout": PIPE,
            "stderr": PIPE,
        } | options
        process = await create_process(*program, env=env, real_exec=real_exec, **streams)
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(given)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        texts = [each.decode() if each is not None else "" for each in (out, err)]
        return subprocess.CompletedProcess(list(program), process.returncode, *texts)

    loop = asyncio.new_event_loop()
    try:
        done = loop.run_until_complete(finish())
    finally:
        loop.close()
    if check:
        done.check_returncode()
    return done
