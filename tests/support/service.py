"""A real `shellrunner serve` in a process of its own, driven over HTTP; it can be killed and started again."""

import asyncio
import contextlib
import io
import json
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, cast

import aiohttp
from multidict import CIMultiDictProxy

from shellrunner.backup.creation import back_up
from shellrunner.config import load
from shellrunner.keeper.identity import ProcessIdentity
from shellrunner.keeper.slot import SlotReader
from shellrunner.service import serve
from shellrunner.store import Retention, Store
from shellrunner.store.sqlite.composition import open_store
from shellrunner.supervisor import fork_server_connection
from tests.support import measurement, prefork
from tests.support.processes import describe
from tests.support.waiting import WAIT_TIMEOUT, until, within

if measurement.IS_MEASURED:
    fork_server_connection._PROGRAM = measurement.fork_server_program()


# A status, headers, and a body as JSON or bytes.
Answer = tuple[int, CIMultiDictProxy[str], Any]


class Service:
    """One state directory, and the server that works on it at the moment."""

    def __init__(self, state_dir: Path, *, real_exec: bool = False, **settings: object) -> None:
        """Take `settings` as environment variables without their prefix: SUPERVISOR__MAX_RUNNING=2.

        With `real_exec` the server is a program that was started, else a fork of one that was imported before.
        """
        self.state_dir, self.settings, self.real_exec = state_dir, settings, real_exec
        self.environment: dict[str, str] = {}
        self.program = [sys.executable, "-m", "shellrunner", "serve", "--port", "0"]
        self.passed: Sequence[int] = ()  # descriptors that the program inherits
        self.umask = -1  # as ours
        self.acts_on: Sequence[str] = ("server",)  # of a cluster: the processes that are killed and started again
        self.process: prefork.PipedProcess
        self.url = ""
        self.log: list[dict[str, Any]] = []
        self.session = aiohttp.ClientSession()
        self._reader: asyncio.Task[None]

    # The process

    async def start(self, **settings: object) -> Self:
        """Start the server and wait until it listens."""
        self.settings |= settings
        await self.launch()
        await until(lambda: self.url or self.process.returncode is not None, what="it listens")
        if not self.url:
            await self._process_ended()  # its last line says why
        assert self.url, f"it did not start: {self.log[-5:]}"
        return self

    async def launch(self) -> None:
        """Start the server, and wait for nothing."""
        self.url = ""
        self.process = await self.create_process(self.program, self.state_dir)
        self._reader = asyncio.create_task(self._read_log(self.process.stderr))

    async def create_process(
        self, program: Sequence[str], state_dir: Path, **settings: object
    ) -> prefork.PipedProcess:
        """Start a program with the service's settings and those given, on a state directory."""
        environment = {"PATH": os.environ["PATH"], "LANG": "C", "HOME": os.environ.get("HOME", "/")}
        settings = self.settings | settings
        environment |= self.environment | {f"SHELLRUNNER_{name}": str(value) for name, value in settings.items()}
        process = await prefork.create_process(
            *program, "--state-dir", str(state_dir), stderr=asyncio.subprocess.PIPE, env=environment,
            pass_fds=self.passed, umask=self.umask, real_exec=self.real_exec,
        )  # fmt: skip
        return cast("prefork.PipedProcess", process)

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "not JSON", "line": line.decode(errors="replace")}
            self.log.append(entry)
            if entry["event"] == "listening":
                self.url = entry["urls"][0]

    async def kill(self) -> None:
        """End the server abruptly: kill -9."""
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            self.process.kill()
        await self._process_ended()

    async def stop(self, seconds: float = WAIT_TIMEOUT) -> int:
        """End the server as systemd does: SIGTERM; return its exit status."""
        self.terminate()
        return await self.ended(seconds)

    def terminate(self) -> None:
        """Send SIGTERM, and wait for nothing."""
        self.process.terminate()

    async def ended(self, seconds: float = WAIT_TIMEOUT) -> int:
        """Wait until the server has ended by itself and its log was read; return its exit status."""
        return await self._process_ended(seconds)

    async def _process_ended(self, seconds: float = WAIT_TIMEOUT) -> int:
        status = await within(self.process.wait(), seconds, what=self._describe_end)
        await within(self._reader, what=lambda: f"the log of the server (pid {self.process.pid}) was read")
        return status

    def _describe_end(self) -> str:
        pid, pipe = self.process.pid, prefork.pipe_transport(self.process, 2)
        return f"the server (pid {pid}) has ended: {describe(pid)}; its standard error is {pipe}; log {self.log[-3:]}"

    @property
    def directories(self) -> Sequence[Path]:
        """Every state directory."""
        return [self.state_dir]

    @property
    def runner(self) -> "Service":
        """The server that runs jobs, and whose the state directory is."""
        return self

    @asynccontextmanager
    async def history(self) -> AsyncIterator[Store]:
        """Open the history while no server runs."""
        async with open_store(self.state_dir, Retention()) as store:
            yield store

    def job_keys(self) -> list[str]:
        """Return the names of the keys that seal secrets of jobs."""
        return [path.name for path in (self.state_dir / "keys").iterdir() if path.name != "idempotency"]

    def stored_files(self) -> list[Path]:
        """Return every file in which something of a job may be stored."""
        return [path for each in self.directories for path in each.rglob("*") if path.is_file()]

    def back_up(self, target: Path) -> None:
        """Make a backup in a new directory, as the documentation has it."""
        back_up(self.state_dir, target)

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Execute one statement in the history, with `?` for each value; return its rows."""
        with contextlib.closing(sqlite3.connect(self.state_dir / "history.db")) as db, db:
            return db.execute(statement, values).fetchall()

    async def restart(self) -> None:
        """Kill it, start it again."""
        await self.kill()
        await self.start()

    async def clear_away(self) -> None:
        """End the server and every keeper that is left, as their slots name them."""
        await self.session.close()
        if hasattr(self, "process") and self.process.returncode is None:
            if measurement.IS_MEASURED:  # what is killed saves nothing
                with contextlib.suppress(TimeoutError):
                    await self.stop(5)
            if self.process.returncode is None:
                await self.kill()
        if measurement.IS_MEASURED:
            with contextlib.suppress(AssertionError):
                await until(lambda: not self.keepers(), 2)  # those without a command end by themselves
        await until(self._no_keepers)

    def _no_keepers(self) -> bool:
        keepers = self.keepers()  # again and again: one may just have been made
        for keeper in keepers:
            self.signal(keeper, signal.SIGKILL)
        return not keepers

    # Keepers

    def keepers(self) -> list[ProcessIdentity]:
        """Return the identities of the living keepers."""
        found = []
        slots = self.state_dir / "slots"
        for path in slots.glob("**/*.slot") if slots.exists() else ():
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                slot = SlotReader(directory, path.name)
            except OSError:
                continue
            finally:
                os.close(directory)
            header = slot.header()
            if header and not slot.keeper_is_gone():
                found.append(ProcessIdentity.from_dict(header["identity"]))
            slot.close()
        return found

    def keeper_of(self, job_id: int) -> ProcessIdentity | None:
        """Return the identity of the keeper whose slot has this job without an end, or None."""
        try:
            directory = os.open(self.state_dir / "slots", os.O_RDONLY)
        except FileNotFoundError:  # it is still starting
            return None
        try:
            for name in os.listdir(directory):
                if name.endswith(".slot"):
                    slot = SlotReader(directory, name)
                    try:
                        if any(record.job == job_id and record.end is None for record in slot.records()):
                            return ProcessIdentity.from_dict((slot.header() or {})["identity"])
                    finally:
                        slot.close()
        finally:
            os.close(directory)
        return None

    @staticmethod
    def signal(identity: ProcessIdentity, signum: int) -> None:
        """Send a signal to exactly this process, if it is still there."""
        pidfd = identity.open_pidfd()
        if pidfd is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended: pidfd_send_signal(2) says ESRCH
                signal.pidfd_send_signal(pidfd, signum)
            os.close(pidfd)

    # The API

    async def get(self, path: str, **options: Any) -> Answer:
        """GET; return (status, headers, body as JSON or text)."""
        return await self.ask("GET", path, **options)

    async def ask(self, verb: str, path: str, **options: Any) -> Answer:
        """Any request; return (status, headers, body as JSON or text)."""
        async with self.session.request(verb, self.url + path, allow_redirects=False, **options) as response:
            body = await response.read()
            if response.content_type.endswith("json"):
                return response.status, response.headers, json.loads(body)
            return response.status, response.headers, body

    async def submit(self, command: str | None = None, **spec: Any) -> int:
        """POST a job; return its id."""
        if command is not None:
            spec["command"] = command
        content = io.BytesIO(json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode())
        headers = {"Content-Type": "application/json"}
        status, answered, body = await self.ask("POST", "/api/jobs", data=content, headers=headers)
        assert status == 202, body
        assert answered["Location"] == f"/api/statuses/{body['job_id']}"
        return int(body["job_id"])

    async def status(self, job_id: int) -> Any:
        """Return the status resource, done or not."""
        status, _, body = await self.get(f"/api/statuses/{job_id}")
        assert status in (200, 303), body
        return body

    async def running(self, job_id: int) -> ProcessIdentity:
        """Wait until the job's command was started (its keeper says so)."""
        return await until(lambda: self.keeper_of(job_id), what=f"job {job_id} runs")

    async def printed(self, job_id: int) -> bytes:
        """Wait until the job has printed something; return it."""

        async def output() -> bytes:
            status, _, body = await self.get(f"/api/statuses/{job_id}/output")
            assert status == 200, body
            return bytes(body)

        return await until(output, what=f"job {job_id} has printed something")

    async def result(self, job_id: int, seconds: float = WAIT_TIMEOUT) -> Any:
        """Wait until the job is done; return its result."""

        async def redirected() -> bool:
            status, _, _ = await self.get(f"/api/statuses/{job_id}")
            return status == 303

        await until(redirected, seconds, what=f"job {job_id} is done")
        status, _, body = await self.get(f"/api/results/{job_id}")
        assert status == 200, body
        return body

    async def run(self, command: str | None = None, seconds: float = WAIT_TIMEOUT, **spec: Any) -> Any:
        """Submit and wait for the result."""
        return await self.result(await self.submit(command, **spec), seconds)

    async def raw(self, job_id: int, stream: str = "stdout") -> bytes:
        """Every stored byte of one stream."""
        status, _, body = await self.get(f"/api/results/{job_id}/{stream}")
        assert status == 200, body
        return bytes(body)


class InProcess(Service):
    """The same service in the test's own process and loop, so that a test can reach in."""

    def __init__(self, state_dir: Path, **sections: Any) -> None:
        """Take `sections` as settings: jobs={"kill_grace": 0.1}."""
        super().__init__(state_dir)
        self._sections = sections
        self.serving: asyncio.Task[int]

    async def __aenter__(self) -> Self:
        """Start, and wait until it listens."""
        loop = asyncio.get_running_loop()
        listening: asyncio.Future[list[str]] = loop.create_future()
        handler = _Listening(listening)
        logger = logging.getLogger("shellrunner.service")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        store = {"state_dir": self.state_dir}
        settings = load(None, server={"port": 0}, **{"store": store, **self._sections})
        self.serving = asyncio.create_task(serve(settings))
        try:
            either: list[asyncio.Future[Any]] = [self.serving, listening]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_TIMEOUT)
            if not listening.done():
                raise AssertionError(f"it ended instead: {self.serving.result()}")
            self.url = (await listening)[0]
        finally:
            logger.removeHandler(handler)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop as by SIGTERM, and clear away."""
        if self.serving.done():
            await self.session.close()
            return
        os.kill(os.getpid(), signal.SIGTERM)
        await self.serving
        await self.clear_away()


class _Listening(logging.Handler):
    def __init__(self, future: asyncio.Future[list[str]]) -> None:
        super().__init__()
        self._future = future

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "listening" and not self._future.done():
            self._future.set_result(record.__dict__["urls"])
