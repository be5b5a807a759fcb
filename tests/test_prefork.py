"""A forked start of the program is what a real one is, as far as the program and a test can see."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import prefork
from tests.support.service import Service
from tests.support.waiting import until

PROBE = """
import ctypes, gc, json, locale, os, resource, signal, sys, warnings
import shellrunner.service  # aiohttp changes the filters of warnings
def of_status(*names):
    with open("/proc/self/status") as file:
        return [line for line in file if line.startswith(names)]
print(json.dumps({
    "environment": dict(os.environ), "arguments": [sys.argv, sys.orig_argv], "name": __name__,
    "flags": repr(sys.flags), "options": [sys.warnoptions, sys._xoptions], "path": sys.path,
    "warnings": repr(warnings.filters), "encodings": [locale.getencoding(), sys.getfilesystemencoding()],
    "streams": [[each.fileno(), each.name, each.mode, each.encoding, each.errors, each.line_buffering,
        each.write_through, type(each.buffer).__name__] for each in (sys.stdin, sys.stdout, sys.stderr)],
    "descriptors": [[int(fd), os.get_inheritable(int(fd)), os.readlink(f"/proc/self/fd/{fd}").split(":")[0]]
        for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")],
    "handlers": {each: repr(signal.getsignal(each)) for each in signal.valid_signals()},
    "limits": {each: resource.getrlimit(getattr(resource, each)) for each in dir(resource) if "RLIMIT_" in each},
    "kernel": of_status("Name", "Umask", "Uid", "Gid", "Groups", "SigB", "SigI", "SigC", "Cap", "NoNew", "Threads",
        "Seccomp"),
    "directory": os.getcwd(), "session": os.getsid(0) == os.getpid(), "group": os.getpgrp() == os.getpid(),
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), "priority": os.getpriority(os.PRIO_PROCESS, 0),
    "collector": [gc.isenabled(), gc.get_threshold(), gc.get_debug()], "terminal": os.path.exists("/dev/tty"),
}))
"""
LOCALES = [{"LANG": "C"}, {"LANG": "C.UTF-8", "TERM": "xterm"}, {"LC_ALL": "POSIX", "TZ": "Asia/Tokyo"}, {}]


def probe(real_exec: Any, **options: Any) -> Any:
    """Have a process of each kind report what it finds."""
    program = [sys.executable, "-c", PROBE, "argument", "ключ"]
    done = prefork.run(program, real_exec=real_exec, check=True, **options)
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def altered() -> Iterator[None]:
    """Make the test's own process one that hands down something unusual."""
    old = os.umask(0o027), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGHUP, old[1])
    os.umask(old[0])


@pytest.mark.heavy
@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_a_forked_process_finds_what_a_started_one_does(locale: Any, tmp_path: Path) -> None:
    """Environment, arguments, streams, descriptors, signals, limits, directory, session: all are the same."""
    environment = {"PATH": os.environ["PATH"], "ИМЯ": "значение", **locale}
    options = {"env": environment, "cwd": tmp_path, "start_new_session": True, "umask": 0o077}
    assert probe(False, **options) == probe(True, **options)


@pytest.mark.heavy
def test_a_forked_process_inherits_as_a_started_one_does(altered: Any) -> None:
    """Umask, ignored and blocked signals, and passed descriptors with their numbers come from the test's process."""
    reading, writing = os.pipe()
    high = os.dup2(reading, 77, inheritable=False)
    try:
        options = {"env": {"PATH": os.environ["PATH"]}, "pass_fds": [writing, high]}
        forked, started = (probe(real_exec, **options) for real_exec in (False, True))
    finally:
        for fd in (reading, writing, high):
            os.close(fd)
    assert forked == started
    assert "Umask:\t0027\n" in started["kernel"]
    assert [77, True, "pipe"] in started["descriptors"]


def surroundings(pid: Any, state_dir: Path) -> tuple[Any, ...]:
    """Return the kernel's view of a server: identity, signals, group, session, limits, directory, open files."""
    proc = Path(f"/proc/{pid}")
    names = ("Name", "Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "Cap", "NoNewPrivs", "Seccomp")
    status = [line for line in (proc / "status").read_text().splitlines() if line.startswith(names)]
    _, _, *group_session_terminal = (proc / "stat").read_text().rpartition(")")[2].split()[:5]
    links = {os.readlink(link).split(":")[0] for link in (proc / "fd").iterdir()}
    files = {link for link in links if link.startswith("/") and not link.startswith(str(state_dir))}
    standard = [os.readlink(proc / "fd" / fd).split(":")[0] for fd in "012"]
    return status, group_session_terminal, (proc / "limits").read_text(), files, standard, os.readlink(proc / "cwd")


@pytest.mark.heavy
async def test_servers_of_both_kinds_run_in_the_same_surroundings(tmp_path: Path) -> None:
    """Identity, limits, signals, open files, group and session of the server are the same, and what its jobs find."""
    found = []
    for name, real_exec in (("forked", False), ("started", True)):
        service = Service(tmp_path / name, real_exec=real_exec)
        try:
            await service.start()
            result = await service.run(
                "env | grep -v SHELLRUNNER_JOB; ulimit -a; umask; grep Sig[BIC] /proc/self/status"
            )
            found.append((surroundings(service.process.pid, service.state_dir), result["stdout"]))
        finally:
            await service.clear_away()
    forked, started = found
    assert forked == started


@pytest.mark.heavy
async def test_a_forked_process_is_waited_for_and_signalled() -> None:
    """Exit codes, deaths by signal, input and output are what asyncio's own processes give."""
    environment = {"PATH": os.environ["PATH"]}

    async def begin(code: Any) -> Any:
        program = [sys.executable, "-c", code]
        pipes: dict[str, Any] = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        return await prefork.create_process(*program, env=environment, **pipes)

    process = await begin("import sys; print(sys.stdin.read().upper()); sys.exit(7)")
    assert await process.communicate("данные".encode()) == ("ДАННЫЕ\n".encode(), None)
    assert process.returncode == await process.wait() == 7
    process = await begin("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert await process.wait() == -signal.SIGTERM
    process = await begin("import signal; signal.pause()")
    assert process.returncode is None
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    process = await begin("raise SystemExit('in words')")
    assert await process.wait() == 1


@pytest.mark.heavy
async def test_a_forked_process_that_has_just_ended_is_waited_for() -> None:
    """A signal to a process whose end the event loop has not seen yet: it does nothing, and the end is still seen."""
    environment = {"PATH": os.environ["PATH"]}
    process = await prefork.create_process(sys.executable, "-c", "raise SystemExit(7)", env=environment)
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{process.pid}"):  # blocking: the loop must not run meanwhile
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    async with asyncio.timeout(5):
        assert await process.wait() == 7


async def test_a_signal_at_its_end_does_not_lose_the_exit_code() -> None:
    """A process that was really started and has ended, before asyncio has seen it: its exit code is still its own."""
    codes = []
    for _ in range(30):
        process = await prefork.exec_process("sh", "-c", "exit 7")
        with contextlib.suppress(ChildProcessError):  # asyncio's thread was faster
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process.kill()
        codes.append(await process.wait())
    assert codes == [7] * 30


@pytest.mark.heavy
async def test_two_forked_processes_share_no_random_numbers() -> None:
    """Each seeds its own, as a fresh process does."""
    code = "import random, secrets, tempfile, uuid; print(random.random(), uuid.uuid4(), secrets.token_hex())"
    environment = {"PATH": os.environ["PATH"]}
    processes = [
        await prefork.create_process(sys.executable, "-c", code, env=environment, stdout=asyncio.subprocess.PIPE)
        for _ in range(3)
    ]
    lines = [(await each.communicate())[0].split() for each in processes]
    assert len({word for line in lines for word in line}) == 9


@pytest.mark.heavy
async def test_the_prefork_server_ends_with_the_tests(tmp_path: Path) -> None:
    """Once the process that tests is gone, so is the one that forks; what it had forked goes on."""
    code = f"""
import asyncio, os, sys
sys.path.insert(0, {str(prefork._SERVER.parents[2])!r})
from tests.support import prefork
async def main():
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = await prefork.create_process(*child, env={{"PATH": os.environ["PATH"]}}, stdout=-3)
    (server,) = prefork._servers.values()
    print(server._process.pid, process.pid, flush=True)
    os._exit(0)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    server, child = map(int, (await process.stdout.readline()).split())
    await process.wait()
    await until(lambda: not os.path.exists(f"/proc/{server}"))
    os.kill(child, signal.SIGKILL)


@pytest.mark.heavy
def test_a_fork_is_fast() -> None:
    """That is what it is for: five forks that use the whole program take less than half the time of five starts."""
    environment = {"PATH": os.environ["PATH"]}
    program = [sys.executable, "-c", "import shellrunner.service"]
    prefork.run(program, env=environment, check=True)

    def seconds(*, real_exec: bool) -> float:
        begun = time.perf_counter()
        for _ in range(5):
            prefork.run(program, env=environment, check=True, real_exec=real_exec)
        return time.perf_counter() - begun

    assert seconds(real_exec=False) < seconds(real_exec=True) / 2
