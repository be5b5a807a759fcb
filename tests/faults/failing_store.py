"""A server whose store has failing calls, what is asked of it meanwhile, and the checker of what became of that.

The checker knows the answers, what the commands appended to the ledger when they began, and what the API says
afterwards; nothing of how the store works.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from tests.faults import store_injector
from tests.faults.store_injector import CRASHES
from tests.support.service import Service
from tests.support.waiting import until

HEAL_TIMEOUT: Final = 5.0  # seconds after the last failure
ANSWER_TIMEOUT: Final = 10.0  # seconds; SQLite itself waits 5 for a lock
_LOAD: Final = 3.0  # seconds more, for a machine that is busy with other tests

# Each job reserves ids, so that the file is written often.
_PROGRAM = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("store_injector", {store_injector.__file__!r})
module = sys.modules["store_injector"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.install()
from shellrunner.store.state_files import high_water
high_water._BLOCK = 1
from shellrunner.cli import main
main()
"""


class Plan(NamedTuple):
    """What fails; see `store_injector`."""

    call: str
    first: int
    times: int
    fault: str
    kill: bool = False  # the server, as soon as everything is answered

    @property
    def is_crash(self) -> bool:
        """Whether the server ends at the call."""
        return self.fault in CRASHES


class Outcome(Enum):
    """What an answer says."""

    DONE = 1
    REFUSED = 2  # nothing was done
    UNKNOWN = 3


@dataclass
class Round:
    """Jobs in all states, and what was answered to each request about them."""

    name: str
    plan: Plan
    running: int
    retried: int
    waiting: int
    dependent: int
    finished: int
    added: int | None = None
    answers: dict[str, Outcome] | None = None


class FailingStore:
    """One state directory, the server on it, and a ledger."""

    def __init__(self, path: Path) -> None:
        self.path, self.ledger = path, path / "ledger"
        path.mkdir()
        self.ledger.touch()
        self.service = Service(path / "state")
        self.service.program = [sys.executable, "-c", _PROGRAM, "serve", "--port", "0"]
        self.service.environment["STORE_FAULTS"] = str(path)
        self._refused: list[str] = []
        self._gates: list[int] = []
        self._rounds = 0

    async def start(self) -> None:
        """Start the server."""
        await self.service.start(SUPERVISOR__MAX_RUNNING=6, JOBS__KILL_GRACE=0.5)

    # The plan -----------------------------------------------------------------------------------------------------

    def arm(self, plan: Plan, name: str) -> None:
        """Let calls fail from now on."""
        new = self.path / "plan.new"
        new.write_text(f"{plan.call}:{plan.first}:{plan.times}:{plan.fault}:{name}")
        new.rename(self.path / "plan")

    def disarm(self) -> None:
        """Let no call fail any more."""
        (self.path / "plan").unlink(missing_ok=True)

    def hits(self, name: str) -> list[str]:
        """Return the calls that failed in this round."""
        hits = self.path / "hits"
        lines = hits.read_text().splitlines() if hits.exists() else []
        return [line for line in lines if line.split()[0] == name]

    # A round ------------------------------------------------------------------------------------------------------

    async def run(self, plan: Plan, *, together: bool) -> bool:
        """Use the server under a plan, and check everything; return whether a call failed."""
        self._rounds += 1
        there = await self._prepare(f"n{self._rounds}", plan)
        self.arm(plan, there.name)
        await self._use(there, together=together)
        if not self.hits(there.name):
            self.disarm()  # there were fewer calls: what follows only checks
        if plan.kill and self.service.process.returncode is None:
            await self.service.kill()
        await self._recover(there.name, plan)
        await self._check(there)
        return bool(self.hits(there.name))

    async def _prepare(self, name: str, plan: Plan) -> Round:
        for letter in "xy":
            os.mkfifo(self.path / f"{name}{letter}")
        submit = self.service.submit
        running = await submit(self._script(f"{name}-running", f"read x < {self.path}/{name}x; exit 0"))
        retried = await submit(
            self._script(f"{name}-retried", f"read x < {self.path}/{name}y; exit 7"), retries={"max": 1}
        )
        waiting = await submit(self._script(f"{name}-waiting"), start_at="2999-01-01T00:00:00Z")
        dependent = await submit(self._script(f"{name}-dependent"), after=[running])
        finished = await submit("echo output")
        await until(lambda: {f"{name}-running", f"{name}-retried"} <= {*self._started()})
        await self.service.result(finished)
        return Round(name, plan, running, retried, waiting, dependent, finished)

    def _script(self, name: str, body: str = "exit 3") -> str:
        return f"echo {name} >> {self.ledger}; {body}"

    def _started(self) -> list[str]:
        return self.ledger.read_text().splitlines()

    async def _use(self, there: Round, *, together: bool) -> None:
        """Send a request of each kind, while jobs end; note what was answered."""
        name = there.name
        requests = {
            "list": ("GET", "/api/jobs?limit=2"),  # each row is a call
            "add": ("POST", "/api/jobs"),
            "cancel": ("POST", f"/api/jobs/{there.waiting}/cancel"),
            "result": ("GET", f"/api/results/{there.finished}"),
            "again": ("POST", "/api/jobs"),
            "delete": ("DELETE", f"/api/jobs/{there.finished}"),
            "ready": ("GET", "/readyz"),
        }
        if not there.plan.kill:
            requests["end"] = ("GET", f"/api/statuses/{there.dependent}")

        async def gates() -> None:
            for letter in "xy":
                self._open_gate(f"{name}{letter}")

        async def ask(what: str) -> Outcome:
            options: dict[str, Any] = {}
            if requests[what] == ("POST", "/api/jobs"):
                options = {"json": {"command": self._script(f"{name}-{what}")}}
            if what == "end":
                options = {"headers": {"Prefer": "wait=2"}}
            if what == "again":
                options["headers"] = {"Idempotency-Key": f'"{name}"'}
            return await self._ask(*requests[what], **options)

        if together:
            _, *answers = await asyncio.gather(gates(), *map(ask, requests))
        else:
            await gates()
            answers = [await ask(what) for what in requests]
        there.answers = {what: answer for what, answer in zip(requests, answers, strict=True) if answer}

    def _open_gate(self, name: str) -> None:
        gate = os.open(self.path / name, os.O_RDWR)
        os.write(gate, b"\n\n")  # two: for both attempts
        self._gates.append(gate)

    async def _ask(self, verb: str, path: str, **options: Any) -> Outcome:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                status, _, body = await self.service.ask(verb, path, **options)
        except aiohttp.ClientError:
            return Outcome.UNKNOWN  # the server has ended
        if status < 400 or (verb, status) == ("GET", 404):  # it has just been deleted
            return Outcome.DONE
        assert status in (503, 507), (verb, path, status, body)
        return Outcome.UNKNOWN if body["type"] == "/problems/outcome-unknown" else Outcome.REFUSED

    async def run_start(self, plan: Plan) -> bool:
        """Start the server under a plan, while a command runs; return whether a call failed."""
        self._rounds += 1
        name, service = f"n{self._rounds}", self.service
        os.mkfifo(self.path / name)
        job = await service.submit(self._script(name, f"read x < {self.path}/{name}; exit 5"))
        await until(lambda: name in self._started())
        await service.kill()
        self.arm(plan, name)
        await service.launch()
        self._open_gate(name)
        what = f"{plan}: the start comes to an end"
        await until(lambda: service.url or service.process.returncode is not None, ANSWER_TIMEOUT, what)
        await self._recover(name, plan)
        result = await self._result(job, str(plan))
        assert (result["ending"], result["exit_code"]) == ("exited", 5), f"{plan} {self.hits(name)[:3]}: {result}"
        assert self._started().count(name) == 1
        return bool(self.hits(name))

    async def run_stop(self, plan: Plan) -> bool:
        """Stop the server under a plan; return whether a call failed."""
        self._rounds += 1
        name, service = f"n{self._rounds}", self.service
        job = await service.submit(self._script(name))
        self.arm(plan, name)
        code = await service.stop(ANSWER_TIMEOUT)
        if code != 0:
            self._check_end(name, plan)
        self.disarm()
        await service.start()
        result = await self._result(job, str(plan))
        assert (result["ending"], result["exit_code"]) == ("exited", 3), f"{plan} {self.hits(name)[:3]}: {result}"
        assert self._started().count(name) == 1
        return bool(self.hits(name))

    # Afterwards ---------------------------------------------------------------------------------------------------

    async def _recover(self, name: str, plan: Plan) -> None:
        """Start the server again if it has ended, for which it had a reason; wait until it works."""
        service = self.service
        if plan.times == 0:
            self.disarm()
        began = time.monotonic()
        while not await self._works():
            if service.process.returncode is not None:
                self._check_end(name, plan)
                self.disarm()
                await service.start()
                began = time.monotonic()
            waited = time.monotonic() - began
            assert waited < HEAL_TIMEOUT + _LOAD, f"{plan} {self.hits(name)[:3]}: it does not work again"
            await asyncio.sleep(0.02)
        self.disarm()

    def _check_end(self, name: str, plan: Plan) -> None:
        code = self.service.process.returncode
        if plan.kill or (plan.is_crash and code in (97, 98)):
            return
        assert code == 1, f"{plan}: {code}"
        reasons = [line for line in self.service.log if line.get("level") in ("error", "critical", "fatal", None)]
        assert reasons, f"{plan} {self.hits(name)[:3]}: it ended without a reason"

    async def _works(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            status, _, _ = await self.service.get("/readyz")
            if status == 200:
                status, _, body = await self.service.ask(
                    "POST", "/api/jobs", json={"command": "exit 9"}, headers={"Prefer": "wait=5"}
                )
                return status == 200 and body.get("exit_code") == 9
        return False

    async def _check(self, there: Round) -> None:
        what = f"{there.plan} {self.hits(there.name)[:3]} {there.answers}"
        assert there.answers is not None
        await self._check_ends(there, what)
        _, _, body = await self.service.get("/api/jobs?limit=40")
        listed = {job["command"]: job for job in body["jobs"]}
        for request in ("add", "again"):
            name = f"{there.name}-{request}"
            found = listed.get(self._script(name))
            self._check_outcome(there.answers[request], found is not None, f"{request}: {what}")
            if found is None:
                self._refused.append(name)
            else:
                result = await self._result(found["job_id"], f"{request}: {what}")
                assert (result["ending"], result["exit_code"]) == ("exited", 3), f"{request}: {result} {what}"
                assert self._started().count(name) == 1, f"{request}: {what}"
        state = (await self.service.status(there.waiting))["state"]
        self._check_outcome(there.answers["cancel"], state == "done", f"cancel: {state} {what}")
        status, _, _ = await self.service.get(f"/api/results/{there.finished}")
        self._check_outcome(there.answers["delete"], status == 404, f"delete: {status} {what}")

    async def _check_ends(self, there: Round, what: str) -> None:
        """Whatever failed, jobs that ran end truly, and what depends on them goes on."""
        for job, name, code, starts in (
            (there.running, "running", 0, 1), (there.retried, "retried", 7, 2), (there.dependent, "dependent", 3, 1),
        ):  # fmt: skip
            result = await self._result(job, f"{name}: {what}")
            assert (result["ending"], result["exit_code"]) == ("exited", code), f"{name}: {result} {what}"
            assert self._started().count(f"{there.name}-{name}") == starts, f"{name}: {what}"
        for gate in self._gates:
            os.close(gate)
        self._gates.clear()

    async def _result(self, job: int, what: str) -> Any:
        try:
            return await self.service.result(job, HEAL_TIMEOUT + _LOAD)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from None

    @staticmethod
    def _check_outcome(answered: Outcome, is_done: bool, what: str) -> None:
        if answered is not Outcome.UNKNOWN:
            assert is_done == (answered is Outcome.DONE), what

    async def check_all(self) -> None:
        """After a kill and a start: what was refused has never run, and nothing ran twice."""
        await self.service.restart()
        assert await until(self._works)
        started = self._started()
        assert not {*self._refused} & {*started}
        once = [name for name in started if not name.endswith("-retried")]
        assert sorted(set(once)) == sorted(once)


@contextlib.asynccontextmanager
async def failing_store(path: Path) -> AsyncIterator[FailingStore]:
    """Run a server whose store has failing calls; in the end check all that was ever answered."""
    there = FailingStore(path)
    try:
        await there.start()
        yield there
        await there.check_all()
    finally:
        there.disarm()
        await there.service.clear_away()
        for line in there.service.log[-30:]:
            print(line)
