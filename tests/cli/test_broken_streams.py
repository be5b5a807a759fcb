"""Every verb with streams that are full, closed or missing, and in a directory that is gone: no traceback."""

import ast
import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shellrunner.cli.verb_group import VERBS
from tests.support import prefork
from tests.support.command_line import Typist, finished
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Closes descriptors, or removes the current directory, before the command line is run as `python -m` would.
PROGRAM = """
import os, sys
for fd in map(int, sys.argv.pop(1)):
    os.close(fd)
    setattr(sys, ('stdin', 'stdout', 'stderr')[fd], None)
if sys.argv[1] == 'remove':
    os.rmdir(os.getcwd())
del sys.argv[1]
sys.argv[0] = 'shellrunner'
from shellrunner.__main__ import main
main()
"""
SILENT = {
    "attach",
    "serve",
    "worker",
    "migrate",
    "import",
    "backup",
    "restore",
    "uninstall",
    "install",
}  # write no output in these calls
JOB_VERBS = {"attach", "run", "submit", "batch", "again", "wait"}
HELPED = {"run", "ps", "serve", "attach"}  # one of each kind: it is written in one place
AS_CANCEL = {"rm", "signal", "pause", "resume", "hold", "release"}  # do one thing with each job, as `cancel` does
MESSAGES_ONLY = {"cancel", "prune", "queues", "send", "edit", "keepers", "drain", "undrain"}


def calls(job: int, directory: Path) -> dict[str, Sequence[Any]]:
    """Return arguments with which each verb does something that harms nobody."""
    (directory / "jobs").write_text("true\n")
    changing = {verb: [10**9] for verb in ("pause", "resume", "hold", "release")}
    return changing | {
        "batch": [directory / "jobs"], "again": ["--clean", job], "top": ["--once"], "send": ["x", 10**9],
        "edit": ["--priority", "1", 10**9], "keepers": [],
        "run": ["echo hi"], "attach": [job], "submit": ["true"], "logs": [job], "wait": ["--json", job], "ps": [],
        "show": [job],
        "cancel": [10**9], "rm": [10**9], "prune": ["--yes", "--filter", "queue=nobody"], "queues": [],
        "serve": ["--port", "-1"], "worker": [], "migrate": [], "import": [directory],
        "hosts": [], "drain": ["nobody"], "undrain": ["nobody"],
        "backup": [directory / "backup", "--state-dir", directory],
        "restore": [directory / "none", "--state-dir", directory], "token": ["create", "ci"],
        "install": ["--root", directory / "root", "--dry-run"], "uninstall": ["--user", "--dry-run"], "unit": [],
        "completion": ["bash"], "signal": ["TERM", 10**9],
    }  # fmt: skip


@contextmanager
def stream(kind: str) -> Iterator[int]:
    """Yield a descriptor whose writes fail: a full device, or a pipe without a reader."""
    if kind == "full":
        fd = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, fd = os.pipe()
        os.close(reading)
    try:
        yield fd
    finally:
        os.close(fd)


async def call(typist: Typist, *arguments: Any, closed: str = "", remove: bool = False, **streams: Any) -> Any:
    """Run the command line with these descriptors closed; return its exit code and what it wrote."""
    program = ["-c", PROGRAM, closed or "", "remove" if remove else "keep", *map(str, arguments)]
    options: dict[str, Any] = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE}
    options |= {"stderr": asyncio.subprocess.PIPE} | streams
    process = await prefork.create_process(prefork.MODULE[0], *program, env=typist.environment, **options)
    return await finished(process)


async def every_call(shared: Service, directory: Path) -> dict[str, Sequence[Any]]:
    """Return the arguments of each verb, for a job that is done, but of those that are alike only one."""
    found = calls((await shared.run("echo hi"))["job_id"], directory)
    assert set(found) == set(VERBS)
    return {verb: arguments for verb, arguments in found.items() if verb not in AS_CANCEL}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["full", "closed"])
async def test_no_verb_fails_on_its_output_without_a_word(
    shared: Service, typist: Typist, tmp_path: Path, kind: str
) -> None:
    """Full: one line with the reason, and a failure. Without a reader: 141, and silence."""
    for verb, arguments in (await every_call(shared, tmp_path)).items():
        for words in ([verb, *arguments], [verb, "--help"])[: 2 if verb in HELPED else 1]:
            with stream(kind) as fd:
                done = await call(typist, *words, stdout=fd)
            assert "Traceback" not in done.err, done
            if (verb in SILENT and words[-1] != "--help") or verb in MESSAGES_ONLY:
                continue
            if kind == "closed":
                assert done.code == 141, (words, done)
            else:
                assert done.code == (125 if verb in JOB_VERBS else 1), (words, done)
                assert "cannot write to standard output: No space left on device" in done.err, (words, done)


@pytest.mark.heavy
@pytest.mark.parametrize("closed", ["1", "2", "012"])
async def test_no_verb_needs_its_streams(shared: Service, typist: Typist, tmp_path: Path, closed: str) -> None:
    """With descriptors that were closed at the start, output that is lost is a failure, and nothing else is."""
    for verb, arguments in (await every_call(shared, tmp_path)).items():
        done = await call(typist, verb, *arguments, closed=closed)
        assert "Traceback" not in done.err, (verb, done)
        if verb in ("ps", "unit", "completion", "logs"):
            assert done.code == (1 if "1" in closed else 0), (verb, done)
            assert ("2" in closed) or ("Bad file descriptor" in done.err) == ("1" in closed)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["full", "closed"])
async def test_messages_that_cannot_be_written_change_no_exit_code(
    shared: Service, typist: Typist, tmp_path: Path, kind: str
) -> None:
    """A standard error that is full, or that nobody reads, is as good as one that works."""
    expected = {"run": 0, "submit": 0, "logs": 0, "wait": 0, "ps": 0, "show": 0, "cancel": 1, "serve": 2, "unit": 0}
    arguments = await every_call(shared, tmp_path)
    for verb, code in expected.items():
        with stream(kind) as fd:
            done = await call(typist, verb, *arguments[verb], stderr=fd)
        assert done.code == code, (verb, done)
    with stream(kind) as fd:
        assert (await call(typist, "frobnicate", stderr=fd)).code == 2


@pytest.mark.heavy
async def test_no_verb_fails_without_a_word_in_a_removed_directory(
    shared: Service, typist: Typist, tmp_path: Path
) -> None:
    """What needs the directory says that it is gone; all others work."""
    more = {
        "run": ["--cwd", ".", "true"], "submit": ["--cwd", "sub", "true"], "serve": ["--state-dir", "state"],
        "unit": ["--config", "x"], "backup": ["target", "--state-dir", "s"],
    }  # fmt: skip
    for verb, arguments in [*(await every_call(shared, tmp_path)).items(), *more.items()]:
        (tmp_path / "gone").mkdir()
        done = await call(typist, verb, *arguments, remove=True, cwd=tmp_path / "gone")
        assert "Traceback" not in done.err, (verb, done)
        if arguments is more.get(verb):
            assert "the current directory does not exist any more" in done.err, (verb, done)
            assert done.code == (125 if verb in JOB_VERBS else 1), (verb, done)


@pytest.mark.heavy
@pytest.mark.parametrize("verb", ["ps", "run", "serve"])
async def test_an_interrupt_at_any_moment_is_quiet(typist: Typist, tmp_path: Path, verb: str) -> None:
    """Ctrl-C while modules are loaded, or later: 130 (`serve`: 0) and no traceback."""
    arguments = {"ps": [], "run": ["sleep 0.2"], "serve": ["--port", "0", "--state-dir", str(tmp_path / "s")]}[verb]
    for moment in (0.03, 0.15, 0.3):
        async with typist.begin(verb, *arguments, real_exec=True) as process:
            await _runs_python(process.pid)
            await asyncio.sleep(moment)
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            done = await finished(process)
        assert "Traceback" not in done.err, done
        assert done.code in ((0,) if verb == "serve" else (0, 130)), (moment, done)


# Ctrl-C comes in a finalizer, while the module is imported that is the first argument.
INTERRUPTED = """
import os, signal, sys

interrupted = sys.argv[1]

class Collected:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, name, path, target=None):
        if name == interrupted:
            Collected()

if sys.argv[2:]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.meta_path.insert(0, Finder())
from shellrunner.__main__ import main
sys.argv[1:] = ["token", "--help"]
main()
"""


@pytest.mark.parametrize("module", ["shellrunner.cli", "click", "shellrunner.cli.commands.administration.token"])
@pytest.mark.parametrize("is_ignored", [False, True])
async def test_an_interrupt_in_a_finalizer_is_not_lost(module: str, is_ignored: bool) -> None:
    """While modules are loaded, where Python only prints it; `nohup` and `&` have it ignored as ever."""
    arguments = [module, *["ignored"] * is_ignored]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", INTERRUPTED, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert err == b""
    assert (process.returncode, b"Usage: shellrunner token" in out) == ((0, True) if is_ignored else (130, False))


async def test_nothing_is_imported_before_an_interrupt_is_handled() -> None:
    """The program's first module brings no other, in whose import Ctrl-C would be a traceback."""
    program = "import sys; before = {*sys.modules}; import shellrunner.__main__; print({*sys.modules} - before)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    loaded = (await process.stdout.read()).decode()
    assert await process.wait() == 0
    assert ast.literal_eval(loaded) == {"shellrunner", "shellrunner.__main__"}


async def _runs_python(pid: int) -> None:
    """Wait until the interpreter has got as far as the program: it has opened a module of ours."""

    def loads() -> bool:
        try:
            with open(f"/proc/{pid}/maps") as file:
                return "_ctypes" in file.read() or "select" in file.read()
        except OSError:
            return True

    await until(loads)


async def test_a_terminal_that_hangs_up_ends_quietly(typist: Typist) -> None:
    """A verb that writes to a terminal that is gone neither hangs nor leaves a traceback."""
    async with typist.at_terminal("logs", "-f", (await _endless(typist))) as screen:
        await screen.shows(b"line")
        screen.hang_up()
        async with asyncio.timeout(20):
            await screen._process.wait()


async def _endless(typist: Typist) -> int:
    done = await typist.run("submit", "--timeout", "20", "while sleep 0.05; do echo line; done")
    return int(done.out)
