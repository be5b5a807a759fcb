"""A Python process that has imported the whole program, and forks a child for each request.

Run by file with the number of a control socket; `tests.support.prefork` is the other side, and describes a request.
It imports nothing of the tests, has one thread and handles no signal, so that a child is what a fresh start would be.
"""

import contextlib
import fcntl
import gc
import io
import itertools
import json
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import sys
import termios
import time
from importlib import import_module
from typing import Any

# Locale coercion (PEP 538) has set it, unless it was given: a fresh process with the same locale has it too.
COERCED = {name: os.environ[name] for name in ("LC_CTYPE",) if name not in sys.argv[2:] and name in os.environ}


def import_everything() -> None:
    """Import each module of the program; those that run something when they are imported are run by name."""
    package = import_module("shellrunner")
    for found in pkgutil.walk_packages(package.__path__, "shellrunner."):
        if not found.name.endswith(".__main__"):
            import_module(found.name)
    # Another program than the real one only where coverage is measured.
    connection: Any = import_module("shellrunner.supervisor.fork_server_connection")
    connection._PROGRAM = os.environ["FORK_SERVER"]


def wait_for_request(number: int) -> list[int]:
    """Serve requests until the other side has gone; return a request in each child that is forked for one."""
    control = socket.socket(fileno=number)
    children: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and the descriptor by which its end is reported
    poll = select.poll()
    poll.register(number, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready != number:
                poll.unregister(ready)
                report_end(*children.pop(ready))
                os.close(ready)
                continue
            data, descriptors, _, _ = socket.recv_fds(control, 1, 253)
            if not data:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                control.detach()  # its number is another's from here on
                return descriptors
            report, *others = descriptors
            for each in others:
                os.close(each)
            pidfd = os.pidfd_open(pid)
            report_start(report, pid, pidfd)
            children[pidfd] = pid, report
            poll.register(pidfd, select.POLLIN)


def report_start(report: int, pid: int, pidfd: int) -> None:
    """Send the pid, and a descriptor that means exactly this process."""
    connection = socket.socket(fileno=report)
    try:
        socket.send_fds(connection, [str(pid).encode()], [pidfd])
    except OSError:
        pass  # nobody waits for it any more
    finally:
        connection.detach()


def report_end(pid: int, report: int) -> None:
    """Reap a child, and send how it ended."""
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # nobody waits for it any more
        os.write(report, str(os.waitstatus_to_exitcode(status)).encode())
    os.close(report)


def become(descriptors: list[int]) -> list[str]:
    """Make this child what a fresh process would be; return the arguments of its Python."""
    _, message, directory, *given = descriptors
    with open(message, "rb", closefd=False) as file:
        file.seek(0)
        request = json.load(file)
    set_signals(request["ignored"], request["blocked"])
    if request["new_session"]:
        os.setsid()
    os.fchdir(directory)
    place_descriptors(dict(zip([0, 1, 2, *request["passed"]], given, strict=True)))
    if request["controlling_terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.umask(request["umask"])
    for kind, limits in request["limits"]:
        if list(resource.getrlimit(kind)) != limits:
            resource.setrlimit(kind, limits)
    os.environ.clear()
    os.environ.update(request["environment"] | COERCED)
    time.tzset()
    open_streams()
    program: list[str] = request["program"]
    return program


def set_signals(ignored: list[int], blocked: list[int]) -> None:
    """Ignore and block what the requesting process does."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def place_descriptors(given: dict[int, int]) -> None:
    """Give each descriptor the number that it shall have, and close all others."""
    above = max(given) + 1
    copies = {target: fcntl.fcntl(fd, fcntl.F_DUPFD, above) for target, fd in given.items()}
    for target, copy in copies.items():
        os.dup2(copy, target)
    kept = sorted(given)
    for before, target in itertools.pairwise([*kept, 1 << 30]):
        if before + 1 < target:  # os.closerange(n, n) closes everything
            os.closerange(before + 1, target)


def open_streams() -> None:
    """Open the standard streams as Python does at its start, on the descriptors that there are now."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        old = getattr(sys, name)
        binary: Any = open(fd, f"{mode}b", closefd=False)  # noqa: SIM115  open as long as the process
        binary.raw.name = f"<{name}>"
        is_line_buffered = fd == 2 or os.isatty(fd)
        new: Any = io.TextIOWrapper(binary, old.encoding, old.errors, "\n", line_buffering=is_line_buffered)
        new.mode = mode
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def run(program: list[str]) -> None:
    """Go on as Python does with these arguments: `-m MODULE …`, `-c CODE …` or `FILE …`."""
    sys.orig_argv[:] = [sys.executable, *program]
    with open("/proc/self/comm", "w") as file:
        file.write(os.path.basename(sys.executable if program[0].startswith("-") else program[0]))
    if program[0] == "-m":
        sys.path[0] = os.getcwd()
        sys.argv[:] = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    elif program[0] == "-c":
        sys.path[0] = ""
        sys.argv[:] = ["-c", *program[2:]]
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(program[1], "<string>", "exec"), main.__dict__)
    else:
        sys.path[0] = os.path.dirname(program[0])
        sys.argv[:] = program
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    import_everything()
    gc.collect()
    gc.freeze()  # what is shared with the children stays shared: the collector does not touch it
    run(become(wait_for_request(int(sys.argv[1]))))
