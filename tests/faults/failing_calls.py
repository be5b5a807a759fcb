"""Jobs under a fork server and keepers whose calls fail, and the checker of what became of them.

The checker knows what the commands appended to the ledger (S when they began, E when they came to their end), and
what the history says; nothing of how keepers work.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import Settings, load
from shellrunner.errors import ShellrunnerError
from shellrunner.keeper.slot import SlotReader
from shellrunner.metrics import Metrics
from shellrunner.model import Done, Ending, Job, JobSpec, Stream
from shellrunner.service.state_dir import prepare
from shellrunner.service.supervision import supervised
from shellrunner.store import Retention
from shellrunner.store.sqlite.composition import open_store
from shellrunner.store.sqlite.store import SqliteStore
from shellrunner.supervisor import Controls, Supervisor, fork_server_connection, keeper_pool
from shellrunner.supervisor.confinement import Confinement
from shellrunner.supervisor.fork_server_connection import ForkServerLauncher, attach
from tests.faults import injector
from tests.faults.injector import Plan
from tests.support import measurement
from tests.support.processes import marked
from tests.support.waiting import until

_MAX_RUNNING = 8
CRASHES = ("before", "after")
DONE_TIMEOUT = 5.0  # seconds from the start line (or the submission) to the end, whatever fails
_LOAD = 3.0  # seconds more, for a machine that is busy with other tests

# Stands in for the fork server's program (see `measurement`): the injector first, then the program itself.
_PROGRAM = """
import importlib.util, runpy, sys
spec = importlib.util.spec_from_file_location("injector", {injector!r})
module = sys.modules["injector"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.install()
runpy.run_path({program!r}, run_name="__main__")
"""


_launched: list[subprocess.Popen[bytes]] = []  # fork servers that are reaped in the end


@contextlib.contextmanager
def failing_fork_servers(directory: Path) -> Iterator[None]:
    """Start fork servers with failing calls from now on; in the end all of them are reaped."""
    program = directory / "fork_server.py"
    program.write_text(_PROGRAM.format(injector=injector.__file__, program=measurement.fork_server_program()))
    launched = _launched
    launched.clear()

    def attach_and_note(process: subprocess.Popen[bytes], connection: socket.socket) -> Any:
        launched.append(process)
        return attach(process, connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server_connection, "_PROGRAM", str(program))
        patch.setattr(keeper_pool, "attach", attach_and_note)
        yield
    for process in launched:
        process.wait(5)


@dataclass(frozen=True)
class Scenario:
    """A kind of job, and how it ends if nothing but calls of its keeper fails."""

    name: str
    body: str
    members: dict[str, Any] = field(default_factory=dict)
    ending: Ending = Ending.EXITED
    exit_code: int | None = 3
    output: bytes = b""
    stdin: bytes | None = None
    leaves: bool = False  # a child that appends D to the ledger after the end

    @property
    def ends_by_itself(self) -> bool:
        """Whether a healthy command comes to its own end."""
        return self.ending is Ending.EXITED


@dataclass
class Run:
    """One job under one plan (or none)."""

    name: str
    scenario: Scenario
    plan: Plan | None
    job: int = 0
    lines: list[str] = field(default_factory=list)
    hits: int = 0


class World:
    """A state directory with a store and a supervisor in this process, and a ledger."""

    def __init__(self, path: Path, store: SqliteStore, supervisor: Supervisor) -> None:
        self.path, self.store, self.supervisor = path, store, supervisor
        self.ledger = path / "ledger"
        self._places = asyncio.Semaphore(_MAX_RUNNING)

    async def run(self, scenario: Scenario, plan: Plan | None, name: str) -> Run:
        """Run a job to its end, and check it."""
        async with self._places:
            return await self.finish(await self.submit(scenario, plan, name))

    async def submit(self, scenario: Scenario, plan: Plan | None, name: str) -> Run:
        """Submit a job."""
        text = f"echo S {name} $$ >> {self.ledger}; {scenario.body}; echo E {name} $$ >> {self.ledger}; exit 3"
        text = text.replace("NAME", name).replace("LEDGER", str(self.ledger))
        spec = JobSpec.model_validate(
            {
                "argv": ["/bin/sh", "-c", text],
                "env": self._environment(plan),
                **scenario.members,
            }
        )
        run = Run(name, scenario, plan)
        run.job = (await self.store.add(spec)).id
        return run

    def _environment(self, plan: Plan | None) -> dict[str, str]:
        return {"LEDGER": str(self.ledger)} | ({"FAULTS": str(plan)} if plan else {})

    async def finish(self, run: Run) -> Run:
        """Wait for the end of the run, and check it."""
        if run.scenario.stdin is not None:
            await until(lambda: self._send_input(run), DONE_TIMEOUT + _LOAD, f"{run.plan} has its input")
        await until(lambda: self._is_over(run), DONE_TIMEOUT + _LOAD, f"{run.plan} in {run.scenario.name} is over")
        run.hits = len(self._lines(self.path / "hits", 0, run.name))
        if run.scenario.leaves and not (run.plan and run.plan.fault in CRASHES and run.hits):
            await self._wait_left(run)
        run.lines = self._lines(self.ledger, 1, run.name)
        await self._check(run)
        return run

    async def _send_input(self, run: Run) -> bool:
        controls = Controls(self.store, self.supervisor.running_job)
        try:
            await controls.send_input(run.job, None, run.scenario.stdin or b"", end=True)
        except ShellrunnerError:  # not claimed yet, or it has ended, or its keeper is found again
            return await self._is_over(run)
        return True

    async def _is_over(self, run: Run) -> bool:
        job = await self.store.job(run.job)
        return isinstance(job.phase, Done)

    async def _wait_left(self, run: Run) -> None:
        with contextlib.suppress(AssertionError):
            await until(lambda: any(line[0] == "D" for line in self._lines(self.ledger, 1, run.name)), 1.5)

    def lines(self, letter: str) -> list[str]:
        """Return the ledger's lines that begin with this letter."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return [line for line in lines if line[0] == letter]

    def _lines(self, path: Path, column: int, name: str) -> list[str]:
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[column] == name]

    async def _check(self, run: Run) -> None:
        job = await self.store.job(run.job)
        assert isinstance(job.phase, Done)
        starts, ends = ([line for line in run.lines if line[0] == letter] for letter in "SE")
        what = f"{run.plan} in {run.scenario.name}: {job.phase.end}, lines {run.lines}"
        assert len(starts) <= 1, f"started twice: {what}"
        assert job.attempt == 1, what
        crashed = run.plan is not None and run.plan.fault in CRASHES and run.hits > 0
        match job.phase.end.ending:
            case Ending.FAILED_TO_START:
                assert run.hits, f"failed to start without a fault: {what}"
                assert not starts, f"a false failed_to_start: {what}"
                assert job.phase.end.detail, what
            case Ending.LOST:
                assert crashed, f"lost although its keeper could live: {what}"
                assert job.phase.end.detail, what
            case _:
                assert len(starts) == 1, f"an ending of nothing: {what}"
                assert (job.phase.end.ending, job.phase.end.exit_code) == self._expected(run), f"false: {what}"
                if run.scenario.ends_by_itself:
                    assert len(ends) == 1, f"a healthy command was killed: {what}"
                if run.scenario.leaves and not crashed:
                    assert any(line[0] == "D" for line in run.lines), f"what it left was killed: {what}"
                await self._check_output(run, job, what)

    def _expected(self, run: Run) -> tuple[Ending, int | None]:
        return run.scenario.ending, run.scenario.exit_code

    async def _check_output(self, run: Run, job: Job, what: str) -> None:
        assert isinstance(job.phase, Done)
        volume, whole = job.phase.volume, run.scenario.output
        assert volume is not None
        output = await self.store.output(job.id)
        stored = await output.read_stream(Stream.STDOUT, 0, 1 << 20)
        assert len(stored) == volume.stdout_bytes, f"not what is promised: {volume}, {len(stored)} bytes; {what}"
        assert whole.startswith(stored), f"not a beginning: {stored[:50]!r}; {what}"
        counted = volume.stdout_bytes + volume.stdout_dropped
        unread = run.plan is not None and run.plan.call in ("os.read", "poll.poll", "os.set_blocking")
        # What lets children go need not wait for all that these write.
        assert counted == len(whole) or run.scenario.leaves or (unread and run.hits), (
            f"{volume} of {len(whole)} bytes; {what}"
        )

    async def check_nothing_is_left(self) -> None:
        """No command runs any more, and every file in `slots` is a living keeper's."""
        try:
            await until(lambda: not marked(str(self.ledger)), 5)
        except AssertionError:
            left = [Path(f"/proc/{pid}/environ").read_text().replace("\0", " ") for pid in marked(str(self.ledger))]
            pytest.fail(f"left running: {left}")
        try:
            await until(lambda: not self._leaked(), 8)
        except AssertionError:
            pytest.fail(f"left of keepers that are gone: {self._leaked()}")

    def _leaked(self) -> list[str]:
        directory = os.open(self.path / "slots", os.O_RDONLY)
        try:
            return [name for name in os.listdir(directory) if not self._is_held(directory, name)]
        finally:
            os.close(directory)

    def _is_held(self, directory: int, name: str) -> bool:
        try:
            slot = SlotReader(directory, name.replace(".sock", ".slot"))
        except FileNotFoundError:
            return name not in os.listdir(directory)
        try:
            return not slot.keeper_is_gone()
        finally:
            slot.close()


@contextlib.asynccontextmanager
async def world(path: Path, max_running: int = _MAX_RUNNING, *, leave: bool = False) -> AsyncIterator[World]:
    """Yield a world on this state directory, old or new; with `leave`, what runs goes on running afterwards."""
    settings = load_settings(max_running)
    launcher = ForkServerLauncher.from_process(prepare(path))
    fork_server = await attach(*launcher.launch())
    _launched.append(fork_server.process)
    async with (
        open_store(path, Retention(days=None, jobs=None, bytes=None)) as store,
        supervised(
            store, launcher, fork_server, settings, confinement=Confinement({}), observe=Metrics({}).observe
        ) as (
            supervisor,
            task,
        ),
    ):
        try:
            yield World(path, store, supervisor)
            assert not task.done(), "the supervisor has crashed"
        finally:
            if not leave:
                end_all(str(path))
    with contextlib.suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(fork_server.process.wait, 0.1 if leave else 5)


def end_all(mark: str) -> None:
    """Kill what a failed test leaves behind: commands, keepers and their fork servers."""
    for pid in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def load_settings(max_running: int) -> Settings:
    """Return settings whose grace is short."""
    settings = load()
    supervisor = settings.supervisor.model_copy(update={"max_running": max_running})
    jobs = settings.jobs.model_copy(update={"kill_grace": 0.5})
    return settings.model_copy(update={"supervisor": supervisor, "jobs": jobs})
