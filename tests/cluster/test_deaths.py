"""Servers and whole hosts of a cluster that are killed: nothing runs twice, is missing, or is reported falsely."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.cluster.conftest import TwoNodes
from tests.support.processes import children, lives
from tests.support.service import Service
from tests.support.waiting import until

TIMEOUT = 60.0  # seconds: several restarts on a loaded machine


async def ask(node: Service, verb: str, path: str, **options: object) -> Any:
    """Return the document of an answer."""
    return (await node.ask(verb, path, **options))[2]


async def submit(node: Service, command: str) -> int:
    """Submit a job, and return its id."""
    return int((await ask(node, "POST", "/api/jobs", json={"command": command}))["job_id"])


async def drain(nodes: TwoNodes, host: str) -> None:
    """Let a host start no jobs, so that the other one runs them."""
    assert (await ask(nodes.a, "POST", f"/api/workers/{host}/drain"))["draining"]


async def started_at(node: Service, job_id: int) -> None:
    """Wait until the job's command was started there."""
    await until(lambda: node.keeper_of(job_id) if (node.state_dir / "slots").exists() else None)


async def status_at(node: Service, job_id: int) -> Any:
    """Return the job's status as a node has it."""
    return await ask(node, "GET", f"/api/statuses/{job_id}")


@pytest.mark.heavy
async def test_a_job_outlives_the_server_of_its_host(nodes: TwoNodes, tmp_path: Path) -> None:
    """Killed and started again, the server adopts it; its end and output are the true ones at the other node."""
    await drain(nodes, "a")
    gate = tmp_path / "gate"
    job = await submit(nodes.a, f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; echo over; exit 7")
    await started_at(nodes.b, job)
    await nodes.b.kill()
    gate.touch()  # it may well end while no server is there
    await nodes.b.start()

    async def done() -> bool:
        return bool((await status_at(nodes.a, job))["done"])

    await until(done, TIMEOUT)
    result = await ask(nodes.a, "GET", f"/api/results/{job}")
    assert (result["ending"], result["exit_code"], result["stdout"], result["host"]) == (
        "exited", 7, "begun\nover\n", "b",
    )  # fmt: skip


@pytest.mark.heavy
async def test_a_host_that_lost_its_keepers_proves_that_its_jobs_are_lost(nodes: TwoNodes) -> None:
    """Everything of it is killed at once; its server, started again, finds no keeper: no `lost_after` has to pass."""
    await drain(nodes, "a")
    job = await submit(nodes.a, "sleep 600")
    await started_at(nodes.b, job)
    everything = descendants(nodes.b.process.pid)
    for pid in (nodes.b.process.pid, *everything):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await nodes.b.ended()
    await until(lambda: not nodes.b.keepers() and not any(map(lives, everything)))
    assert (await status_at(nodes.a, job))["state"] == "running"
    await nodes.b.start()

    async def done() -> bool:
        return bool((await status_at(nodes.a, job))["done"])

    await until(done, TIMEOUT)
    result = await ask(nodes.a, "GET", f"/api/results/{job}")
    assert (result["ending"], "its end was not seen" in result["detail"]) == ("lost", True)


@pytest.mark.heavy
async def test_nothing_runs_twice_or_is_missing_while_servers_are_killed(nodes: TwoNodes, tmp_path: Path) -> None:
    """Both servers are killed again and again while jobs are submitted with keys at either; a ledger counts runs."""
    ledger = tmp_path / "ledger"
    accepted: dict[int, int] = {}

    async def submit_until_accepted(number: int) -> None:
        # A client that gets no answer repeats its request with the same key, at the other node.
        spec = {"command": f"echo {number} >> {ledger}; sleep 0.05"}
        for attempt in range(200):
            node = nodes.each[(number + attempt) % 2]
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                headers = {"Idempotency-Key": f'"key-{number}"'}
                status, _, job = await node.ask("POST", "/api/jobs", json=spec, headers=headers)
                if status == 202:
                    accepted[number] = job["job_id"]
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"job {number} was not accepted")

    async def submit_all() -> None:
        for number in range(60):
            await submit_until_accepted(number)

    submitting = asyncio.ensure_future(submit_all())
    for turn in range(6):
        await until(lambda: submitting.done() or len(accepted) >= 10 * turn)  # noqa: B023  it is awaited here
        await nodes.each[turn % 2].restart()
    await submitting

    assert len(set(accepted.values())) == 60
    done = "SELECT count(*) FROM jobs WHERE state = 'done'"
    await until(lambda: nodes.execute(done) == [(60,)], TIMEOUT)
    endings = nodes.execute("SELECT ending, exit_code, count(*) FROM jobs GROUP BY 1, 2")
    assert endings == [("exited", 0, 60)]
    assert Counter(ledger.read_text().split()) == Counter(str(number) for number in range(60))
    counts = "SELECT sum(waiting), sum(queued), sum(running) FROM counts"
    assert nodes.execute(counts) == [(0, 0, 0)]


def descendants(pid: int) -> list[int]:
    """Return every process below this one."""
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


@pytest.mark.heavy
async def test_a_host_that_stands_still_and_goes_on_reports_the_truth(nodes: TwoNodes, tmp_path: Path) -> None:
    """Stopped beyond its lease it is unreachable, and other jobs run elsewhere; its own job ends as it did."""
    await drain(nodes, "a")
    gate = tmp_path / "gate"
    job = await submit(nodes.a, f"while [ ! -e {gate} ]; do sleep 0.05; done; echo over; exit 7")
    await started_at(nodes.b, job)
    assert not (await ask(nodes.a, "POST", "/api/workers/a/resume"))["draining"]
    nodes.b.process.send_signal(signal.SIGSTOP)
    try:
        nodes.execute("UPDATE hosts SET seen = seen - interval '1 minute' WHERE name = 'b'")

        async def is_unreachable() -> bool:
            return bool((await status_at(nodes.a, job))["unreachable"])

        await until(is_unreachable, TIMEOUT)  # as judged by `a`, once it has had its own lease for that long
        other = await submit(nodes.a, "true")

        async def done(number: int) -> bool:
            return bool((await status_at(nodes.a, number))["done"])

        await until(lambda: done(other), TIMEOUT)
        assert (await status_at(nodes.a, other))["host"] == "a"
        assert (await status_at(nodes.a, job))["state"] == "running"
    finally:
        nodes.b.process.send_signal(signal.SIGCONT)
    gate.touch()
    await until(lambda: done(job), TIMEOUT)
    result = await ask(nodes.a, "GET", f"/api/results/{job}")
    assert (result["ending"], result["exit_code"], result["stdout"], result["host"]) == ("exited", 7, "over\n", "b")
