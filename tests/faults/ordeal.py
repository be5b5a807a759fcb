"""What must hold while a service's surroundings fail, and after: run by `test_surroundings` for each cause."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.faults.chaos.ledger import Ledger
from tests.support.service import Service
from tests.support.waiting import until

LINES: Final = (300, 12_000)  # lines before and after the cause; the latter need more than a slot has
ANSWER_TIMEOUT: Final = 8.0  # seconds
RECOVERY_TIMEOUT: Final = 30.0  # seconds after the cause is gone
_REFUSALS: Final = {503, 507}

_NOTE = """
note() { printf '%s %s %s %s\\n' "$1" "$CHAOS" "$SHELLRUNNER_JOB" "$2" >> "$LEDGER"; }
note S $$
"""

Cause = Callable[[], contextlib.AbstractContextManager[None]]


class Ordeal:
    """A service with running jobs, to which something happens."""

    def __init__(self, service: Service, path: Path) -> None:
        """Use `path`, which is not affected, for the ledger."""
        self._service, self._gate = service, path / "gate"
        os.mkfifo(self._gate)
        self._ledger = path / "ledger"
        self._ledger.touch()
        for each in (self._gate, self._ledger):
            each.chmod(0o666)  # the commands may be another user's
        self._jobs: dict[str, int] = {}
        self._accepted: dict[str, int] = {}
        self.refused: list[tuple[int, str]] = []
        self.answers: list[tuple[str, int]] = []

    async def run(self, cause: Cause, *, hold: float = 0, restarts: bool = False) -> None:
        """Let it happen, end it (after `hold` seconds at least), and check that all is true and works again.

        With `restarts` the server is stopped, killed and started while it lasts.
        """
        service = self._service
        assert (await service.run("exit 3"))["exit_code"] == 3
        await self._start_jobs()
        with cause():
            await self._use()
            if restarts:
                assert await service.stop() == 0
                await service.start()
                await service.restart()
            pid = service.process.pid
            await self._go_on()
            await asyncio.sleep(hold)
        await until(self._works, RECOVERY_TIMEOUT, what="jobs are accepted and run again")
        assert (service.process.pid, service.process.returncode) == (pid, None)
        await self._check_results()
        await service.restart()
        await self._check_results()
        errors = [entry for entry in service.log if "exception" in entry]
        assert not errors, errors[:3]

    async def _start_jobs(self) -> None:
        # No command of theirs needs another process, as there may be none left.
        wait = f"read line < {self._gate}"
        count = "while [ $i -lt {} ]; do i=$((i + 1)); echo $i; done"
        first, last = LINES
        scripts = {
            "writes": f"i=0; {count.format(first)}; {wait}; {count.format(last)}; note E 7; exit 7",
            "silent": f"{wait}; note E 5; exit 5",
            "waits": "sleep 600",
        }
        for name, script in scripts.items():
            self._jobs[name] = await self._service.submit(_NOTE + script, env=self._environment(name))
            await self._service.running(self._jobs[name])
        await until(lambda: len(self._entries("S")) == 3)
        self._jobs["done"] = (await self._service.run("echo done"))["job_id"]

    async def _go_on(self) -> None:
        """Let the running commands go on, and wait until they have reported that they are about to exit."""
        gate = os.open(self._gate, os.O_RDWR)
        try:
            os.write(gate, b"\n\n")
            await until(
                lambda: {"writes", "silent"} <= {*self._entries("E")}, what="the commands go on to their ends"
            )
        finally:
            os.close(gate)

    def _environment(self, name: str) -> dict[str, str]:
        return {"CHAOS": name, "LEDGER": str(self._ledger)}

    def _entries(self, letter: str) -> list[str]:
        return [entry.nonce for entry in Ledger(self._ledger).entries if entry.letter == letter]

    # While it lasts ----------------------------------------------------------------------------------------------

    async def _use(self) -> None:
        """Use the service: it answers, or refuses as documented."""
        for number in range(4):
            await self._submit(f"meanwhile-{number}")
        writes, done = self._jobs["writes"], self._jobs["done"]
        for path in (
            "/healthz", "/readyz", "/metrics", "/api/jobs?sort=created", "/api/queues", f"/api/statuses/{writes}",
            f"/api/results/{done}", f"/api/statuses/{writes}/output",
        ):  # fmt: skip
            await self._ask("GET", path)
        await self._ask("POST", f"/api/jobs/{self._jobs['waits']}/cancel")
        await self._ask("DELETE", f"/api/jobs/{self._jobs['done']}")

    async def _submit(self, name: str) -> None:
        spec = {"command": f"{_NOTE}note E 0", "env": self._environment(name)}
        status, body = await self._ask("POST", "/api/jobs", json=spec)
        if status == 202:
            self._accepted[name] = body["job_id"]
        elif status is not None:
            self.refused.append((status, body["type"]))

    async def _ask(self, method: str, path: str, **options: Any) -> tuple[int | None, Any]:
        """Send a request; None if no connection is accepted or one is closed at once, which is a refusal too."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                status, _, body = await self._service.ask(method, path, **options)
        except aiohttp.ClientError:
            return None, None
        self.answers.append((f"{method} {path}", status))
        assert status < 500 or status in _REFUSALS, (method, path, status, body)
        return status, body

    # Afterwards --------------------------------------------------------------------------------------------------

    async def _works(self) -> bool:
        status, body = await self._ask("GET", "/readyz")
        if status != 200:
            return False
        status, body = await self._ask("POST", "/api/jobs", json={"command": "exit 9"}, headers={"Prefer": "wait=5"})
        return status == 200 and body["exit_code"] == 9

    async def _check_results(self) -> None:
        service = self._service
        silent = await service.result(self._jobs["silent"])
        assert (silent["ending"], silent["exit_code"]) == ("exited", 5), silent
        writes = await service.result(self._jobs["writes"])
        assert (writes["ending"], writes["exit_code"]) == ("exited", 7), writes
        text = "".join(f"{n}\n" for n in range(1, LINES[1] + 1)).encode()
        stored = await service.raw(self._jobs["writes"])
        assert writes["stdout_bytes"] == len(stored)
        assert writes["stdout_bytes"] + writes["stdout_dropped"] == len(text), writes
        head = "".join(f"{n}\n" for n in range(1, LINES[0] + 1)).encode()
        assert stored.startswith(head)
        assert writes["stdout_dropped"] or stored == text
        await self._check_submissions()

    async def _check_submissions(self) -> None:
        """Check that what was accepted meanwhile ran once, and nothing else did."""
        for name, job in self._accepted.items():
            result = await self._service.result(job)
            expected = [name] if result["ending"] == "exited" else []
            assert self._entries("E").count(name) == len(expected), result
            assert result["ending"] == "exited" or result["detail"], result
        starts = self._entries("S")
        assert sorted(set(starts)) == sorted(starts)
        assert set(starts) <= {*self._jobs, *self._accepted}
        _, _, body = await self._service.get(f"/api/statuses/{self._jobs['waits']}")
        if body["done"]:
            assert body["ending"] == "cancelled", body
