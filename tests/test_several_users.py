"""One service for several users: each token has its own user, its own list of commands, and its own jobs."""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service
from tests.support.tokens import hash_of, secret_of
from tests.support.users import as_root
from tests.support.waiting import until

pytestmark = as_root

TOKENS = {name: secret_of(name) for name in ("ops", "ci", "cd")}
CONFIG = """
[[auth.tokens]]
name = "ops"
hash = "{ops}"
scopes = ["read", "run", "admin"]

[[auth.tokens]]
name = "ci"
hash = "{ci}"
scopes = ["read", "run"]
run_as = "nobody"
commands = [
    {{ argv = ["id", "-un"] }},
    {{ command = "cat; id -un", options = ["stdin"] }},
    {{ prefix = ["sleep"], env = ["LANG"] }},
]

[[auth.tokens]]
name = "cd"
hash = "{cd}"
scopes = ["run"]
run_as = "nobody"
"""


Ask = Callable[..., Awaitable[Any]]  # who, verb, path, options; returns what Service.ask does


@pytest.fixture
async def shared(down: Service, tmp_path: Path) -> Ask:
    """Return a service for several users; `ask(who, …)` asks as one of them."""
    config = tmp_path / "config.toml"
    config.touch(0o600)
    config.write_text(CONFIG.format(**{name: hash_of(name) for name in TOKENS}))
    down.program += ["--config", str(config)]
    await down.start()

    async def ask(who: str, verb: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {TOKENS[who]}"} | options.pop("headers", {})
        return await down.ask(verb, path, headers=headers, **options)

    return ask


CAT_JOB = {"command": "cat; id -un", "stdin": {"stream": True}}


@pytest.mark.heavy
async def test_each_runs_as_its_own_user(shared: Ask) -> None:
    """A job shows its submitter and the user it runs as, and input reaches each one's own command."""
    for who, user, run_as in (("ci", b"nobody", "nobody"), ("ops", b"root", None)):
        status, _, job = await shared(who, "POST", "/api/jobs", json=CAT_JOB)
        assert (status, job["submitter"], job["run_as"]) == (202, f"token:{who}", run_as)
        await running(shared, job["job_id"])
        output = f"/api/statuses/{job['job_id']}/output?follow=true"
        assert (await shared(who, "POST", f"/api/jobs/{job['job_id']}/stdin?end=true", data=b"input "))[0] == 204
        assert (await shared("ops", "GET", output))[2] == b"input " + user + b"\n"


@pytest.mark.heavy
async def test_what_is_not_on_the_list_is_refused_with_its_place(shared: Ask) -> None:
    """Another command, more words, a variable, a directory or a terminal: 403, and no job is created."""
    for body, pointer in (
        ({"command": "id -un"}, "#/command"),
        ({"argv": ["id", "-un", "root"]}, "#/argv"),
        ({"argv": ["id", "-un"], "env": {"LD_PRELOAD": "/x"}}, "#/env/LD_PRELOAD"),
        ({"argv": ["id", "-un"], "cwd": "/tmp"}, "#/cwd"),
        ({"argv": ["sleep", "1"], "tty": True}, "#/tty"),
    ):
        status, _, problem = await shared("ci", "POST", "/api/jobs", json=body)
        assert (status, problem["type"]) == (403, "/problems/command-not-allowed")
        assert [fault["pointer"] for fault in problem["errors"]] == [pointer]
    assert (await shared("ops", "GET", "/api/jobs"))[2]["jobs"] == []


@pytest.mark.heavy
async def test_a_result_is_for_those_who_may_read_it(shared: Ask) -> None:
    """A token that may only run sees no output, neither with `Prefer: wait` nor in a replay; others do."""
    for who, status, shown in (("cd", 202, None), ("cd", 202, None), ("ci", 200, "nobody\n")):
        headers = {"Prefer": "wait=20", "Idempotency-Key": "once"}
        answered, headers, body = await shared(
            who, "POST", "/api/jobs", json={"argv": ["id", "-un"]}, headers=headers
        )
        assert (answered, body.get("stdout"), headers.get("Preference-Applied")) == (
            status,
            shown,
            "wait=20" if status == 200 else None,
        )
        await ended(shared, body["job_id"])


async def running(shared: Ask, job: Any) -> None:
    """Wait until a job runs."""

    async def runs() -> bool:
        return bool((await shared("ops", "GET", f"/api/statuses/{job}"))[2]["state"] == "running")

    await until(runs)


async def ended(shared: Ask, job: Any) -> None:
    """Wait until a job is done."""
    assert (await shared("ops", "GET", f"/api/statuses/{job}/output?follow=true"))[0] == 200


@pytest.mark.heavy
async def test_others_jobs_are_out_of_reach(shared: Ask) -> None:
    """A restricted token cannot cancel, signal, feed or delete another token's job, not even of the same user.

    For one that may not read there is no such job.
    """
    mine, theirs = [(await shared(who, "POST", "/api/jobs", json=CAT_JOB))[2]["job_id"] for who in ("ci", "ops")]
    for who, job, code, problem in (
        ("cd", mine, 404, "/problems/no-such-job"), ("ci", theirs, 403, "/problems/not-yours")
    ):  # fmt: skip
        for verb, path in (("POST", "/cancel"), ("POST", "/signal"), ("POST", "/stdin?end=true"), ("DELETE", "")):
            target = f"/api/jobs/{job}{path}"
            status, _, body = await shared(who, verb, target, json={"signal": "SIGKILL"})
            assert (status, body["type"]) == (code, problem), (who, target)
    for who, problem in (("cd", "insufficient-scope"), ("ci", "not-yours")):
        assert (await shared(who, "DELETE", "/api/jobs?confirm=true"))[2]["type"] == f"/problems/{problem}"
    for job in (mine, theirs):
        assert (await shared("ops", "GET", f"/api/statuses/{job}"))[2]["cancelling"] is False
        assert (await shared("ops", "POST", f"/api/jobs/{job}/cancel"))[0] == 202, "who is not bound reaches all"


@pytest.mark.heavy
async def test_a_user_that_there_is_not_is_refused_at_the_start(tmp_path: Path) -> None:
    """A token whose user does not exist keeps the service from starting; the message names it and the reason."""
    config = tmp_path / "config.toml"
    config.touch(0o600)
    config.write_text(CONFIG.format(**{name: hash_of(name) for name in TOKENS}).replace("nobody", "x-y"))
    command = [sys.executable, "-m", "shellrunner", "serve", "--config", config, "--state-dir", tmp_path / "state"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "auth.tokens.1.run_as: no such user: 'x-y'" in done.stderr
