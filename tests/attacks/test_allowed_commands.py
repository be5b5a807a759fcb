"""Tokens with `commands`: what such a client decides never chooses which step of an allowed script runs."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from benchmarks.process_tree import children

from tests.support.selected_service import new_service
from tests.support.service import Service
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The first step is a guard in a process group of its own; the script survives what ends it, and would go on.
SCRIPT = (
    "trap 'echo trapped >> steps' TERM INT QUIT HUP PIPE; echo begun; timeout 60 sleep 60;"
    " echo next >> steps; timeout 60 sleep 60"
)
RULES = [
    {"command": SCRIPT},
    {"command": f": signals; {SCRIPT}", "options": ["signal"]},
    {"argv": ["cat"], "options": ["stdin", "tty"]},
]
TOKENS = [
    {"name": "bound", "hash": hash_of("bound"), "scopes": ["read", "run"], "commands": RULES},
    {"name": "ops", "hash": hash_of("ops"), "scopes": ["read", "run"]},
]


class Bound:
    """A service with a token that may run the script, and the directory where the script notes its steps."""

    def __init__(self, service: Service, directory: Path) -> None:
        self.service, self.steps = service, directory / "steps"

    async def ask(self, who: str, verb: str, path: str, **options: Any) -> Any:
        """Ask with a token; return the status and the body."""
        headers = {"Authorization": f"Bearer {secret_of(who)}"}
        status, _, body = await self.service.ask(verb, path, headers=headers, **options)
        return status, body

    async def begin(self, **spec: Any) -> int:
        """Start the script, and wait until its guard runs, or it has ended."""
        self.steps.unlink(missing_ok=True)
        status, job = await self.ask("bound", "POST", "/api/jobs", json={"command": SCRIPT, **spec})
        assert status == 202, job
        number: int = job["job_id"]

        async def has_begun() -> bool:
            status, job = await self.ask("ops", "GET", f"/api/statuses/{number}")
            return status == 303 or (job["pid"] is not None and guard_runs(job["pid"]))

        await until(has_begun)
        return number

    async def end(self, job: int) -> Any:
        """Wait for the end; return the result."""

        async def is_done() -> bool:
            return bool((await self.ask("ops", "GET", f"/api/statuses/{job}"))[0] == 303)

        await until(is_done)
        return (await self.ask("ops", "GET", f"/api/results/{job}"))[1]


def guard_runs(script: int) -> bool:
    """Whether the script has reached its first step: a signal before that would find only its shell."""
    try:
        below = [each for guard in children(script) for each in children(guard)]
        return any(Path(f"/proc/{each}/comm").read_text() == "sleep\n" for each in below)
    except OSError:  # it has just ended
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bound(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bound]:
    directory = tmp_path_factory.mktemp("bound")
    service = new_service(directory / "state", AUTH__TOKENS=json.dumps(TOKENS), JOBS__CWD=directory)
    await service.start()
    try:
        yield Bound(service, directory)
    finally:
        await service.clear_away()


@pytest.mark.heavy
@pytest.mark.parametrize("who", ["bound", "ops"])
async def test_a_cancelled_script_takes_no_further_step(bound: Bound, who: str) -> None:
    """A cancel, by the token itself or by another, kills guard and script at once: no handler and no step follows."""
    job = await bound.begin()
    assert (await bound.ask(who, "POST", f"/api/jobs/{job}/cancel"))[0] == 202
    result = await bound.end(job)
    assert (result["ending"], result["signal"], bound.steps.exists()) == ("cancelled", "SIGKILL", False)


@pytest.mark.parametrize(
    ("spec", "ending"), [({"timeout": 0.3}, "timed_out"), ({"limits": {"output_bytes": 1}}, "output_limit")]
)
async def test_a_limit_that_the_client_sets_takes_no_further_step(
    bound: Bound, spec: dict[str, Any], ending: str
) -> None:
    """A timeout or an output limit of the client's choice kills guard and script at once."""
    result = await bound.end(await bound.begin(**spec))
    assert (result["ending"], result["signal"], bound.steps.exists()) == (ending, "SIGKILL", False)


async def test_signals_are_an_option(bound: Bound) -> None:
    """No signal reaches a command whose rule has not the option; with it, signals do, and a cancel still kills."""
    job = await bound.begin()
    for name in ("SIGPIPE", "SIGTERM", "SIGSTOP", "SIGCONT", "SIGUSR1", "SIGKILL"):
        for to in ("group", "tree"):
            status, body = await bound.ask(
                "bound", "POST", f"/api/jobs/{job}/signal", json={"signal": name, "to": to}
            )
            assert (status, body["type"]) == (403, "/problems/command-not-allowed")
            assert body["errors"][0]["pointer"] == "#/signal"
    for verb, more in (("pause", {}), ("resume", {}), ("tty", {"json": {"rows": 1, "columns": 1}})):
        status, body = await bound.ask("bound", "POST", f"/api/jobs/{job}/{verb}", **more)
        assert (status, body["type"]) == (403, "/problems/command-not-allowed"), verb
    assert (await bound.ask("bound", "GET", f"/api/statuses/{job}"))[1]["state"] == "running"
    assert not bound.steps.exists()
    await bound.ask("bound", "POST", f"/api/jobs/{job}/cancel")
    await bound.end(job)
    job = await bound.begin(command=f": signals; {SCRIPT}")
    signalled = {"json": {"signal": "SIGPIPE", "to": "tree"}}
    assert (await bound.ask("bound", "POST", f"/api/jobs/{job}/signal", **signalled))[0] == 202
    await until(lambda: bound.steps.exists() and bound.steps.read_text() == "trapped\nnext\n")
    for verb in ("pause", "resume"):
        assert (await bound.ask("bound", "POST", f"/api/jobs/{job}/{verb}"))[0] == 202
    await bound.ask("bound", "POST", f"/api/jobs/{job}/cancel")
    assert (await bound.end(job))["signal"] == "SIGKILL"
    assert bound.steps.read_text() == "trapped\nnext\n"


@pytest.mark.parametrize("stdin", ["\3", "", {"stream": True}])
async def test_keys_of_a_terminal_are_signals(bound: Bound, stdin: Any) -> None:
    """Input on a terminal (Ctrl-C, Ctrl-\\, Ctrl-Z) needs the option of signals beside those of both."""
    job = {"argv": ["cat"], "stdin": stdin, "tty": True}
    status, body = await bound.ask("bound", "POST", "/api/jobs", json=job)
    assert (status, body["detail"]) == (403, "token:bound is not allowed to run this command with signal")
    for one in ("stdin", "tty"):
        del job[one]
        status, body = await bound.ask("bound", "POST", "/api/jobs", json=job)
        assert status == 202, body
        await bound.ask("bound", "POST", f"/api/jobs/{body['job_id']}/cancel")
        job[one] = stdin if one == "stdin" else True
