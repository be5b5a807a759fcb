"""Jobs that ask to be started again if they are lost, at least once: on another host, whatever the first one reports.

Each command writes into a ledger, and waits for a file of its attempt, so that what has run when is known.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Cluster, Host, cluster
from tests.support.service import Service
from tests.support.waiting import until

# Attempt N waits for the file `gate-N`, and exits with 10 + N.
COMMAND = """
echo run >> {0}/ledger
number=$(wc -l < {0}/ledger)
echo attempt $number
while [ ! -e {0}/gate-$number ]; do sleep 0.05; done
echo over; exit $((10 + number))
"""
RETRIES = {"max": 1, "on": ["lost"]}
AWAY = "UPDATE hosts SET seen = seen - interval '1 minute', unreachable = seen WHERE name = %s"


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Yield an API node that starts nothing itself, and two workers."""
    async with cluster(tmp_path, apis=["api"], workers=["first", "second"]) as made:
        await ask(made, "POST", "/api/workers/api/drain")
        yield made


async def ask(hosts: Cluster, verb: str, path: str, **options: Any) -> Any:
    """Return the document of an answer."""
    return (await hosts.apis[0].service.ask(verb, path, **options))[2]


async def started(host: Host, job: int) -> None:
    """Wait until a command of the job was started on a host."""
    slots = host.state_dir / "slots"
    await until(lambda: slots.exists() and host.service.keeper_of(job), what=f"job {job} runs on {host.name}")


async def submit_at_first(hosts: Cluster, path: Path, **spec: Any) -> int:
    """Submit a job that the first worker starts; then the second one is ready to take over."""
    await ask(hosts, "POST", "/api/workers/second/drain")
    job = await ask(hosts, "POST", "/api/jobs", json={"command": COMMAND.format(path), "retries": RETRIES, **spec})
    await started(hosts.hosts["first"], job["job_id"])
    await ask(hosts, "POST", "/api/workers/second/resume")
    return int(job["job_id"])


async def lose_first(hosts: Cluster) -> None:
    """Have the first worker be away, and an admin say that it is gone for good."""
    hosts.execute(AWAY, "first")
    assert await ask(hosts, "DELETE", "/api/workers/first?confirm=true") == {"lost": 1}


async def attempt(hosts: Cluster, job: int, number: int) -> Any:
    """Return how an attempt ended: on which host, what it wrote, and what was found of it later."""
    result = await ask(hosts, "GET", f"/api/results/{job}/attempts/{number}")
    return {key: result[key] for key in ("ending", "exit_code", "host", "found", "stdout")}


async def is_found(hosts: Cluster, job: int) -> bool:
    """Return whether something was reported of the first attempt after it was lost."""
    return (await attempt(hosts, job, 1))["found"] is not None


SECOND = {"ending": "exited", "exit_code": 12, "host": "second", "found": None, "stdout": "attempt 2\nover\n"}


@pytest.mark.heavy
async def test_the_next_attempt_runs_elsewhere_and_the_first_ones_end_is_added_to_it(
    hosts: Cluster, tmp_path: Path
) -> None:
    """A command that ended while its host's server was away: its slot says how, which changes that attempt only."""
    first, second = hosts.workers
    job = await submit_at_first(hosts, tmp_path)
    await first.service.kill()
    await lose_first(hosts)
    await started(second, job)
    (tmp_path / "gate-1").touch()
    await until(lambda: not first.service.keepers(), what="the first attempt has ended")
    await first.start()

    async def known() -> bool:
        return await is_found(hosts, job)

    await until(known, what="it was found")
    status = await ask(hosts, "GET", f"/api/statuses/{job}")
    assert (status["state"], status["attempt"], status["host"]) == ("running", 2, "second")
    lost = await attempt(hosts, job, 1)
    assert (lost["ending"], lost["host"]) == ("lost", "first")
    assert (lost["found"]["ending"], lost["found"]["exit_code"]) == ("exited", 11)
    await until(lambda: not [*(first.state_dir / "slots" / "aside").glob("*")], what="no slot was put aside")
    (tmp_path / "gate-2").touch()
    await hosts.apis[0].service.result(job)
    assert await attempt(hosts, job, 2) == SECOND
    assert await attempt(hosts, job, 1) == lost
    assert (tmp_path / "ledger").read_text() == "run\n" * 2
    assert hosts.execute("SELECT sum(waiting), sum(queued), sum(running) FROM counts") == [(0, 0, 0)]


@pytest.mark.heavy
async def test_a_command_that_still_runs_when_its_host_returns_is_seen_to_its_end(
    hosts: Cluster, tmp_path: Path
) -> None:
    """It is counted, and not ended by itself; its end is added although the job has its result already."""
    first, _ = hosts.workers
    job = await submit_at_first(hosts, tmp_path)
    await first.service.kill()
    await lose_first(hosts)
    (tmp_path / "gate-2").touch()
    await hosts.apis[0].service.result(job)
    await first.start()

    async def counted() -> bool:
        workers = (await ask(hosts, "GET", "/api/workers"))["workers"]
        return [each["unsettled"] for each in workers if each["host"] == "first"] == [1]

    await until(counted, what="the command is counted")
    assert (await attempt(hosts, job, 1))["found"] is None
    (tmp_path / "gate-1").touch()

    async def known() -> bool:
        return await is_found(hosts, job)

    await until(known, what="it was found")
    assert (await attempt(hosts, job, 1))["found"]["exit_code"] == 11
    assert await attempt(hosts, job, 2) == SECOND
    result = await ask(hosts, "GET", f"/api/results/{job}")
    assert (result["ending"], result["found"], result["attempt"]) == ("exited", None, 2)
    assert (tmp_path / "ledger").read_text() == "run\n" * 2


@pytest.mark.heavy
async def test_what_a_lost_job_had_written_and_how_it_ended_is_found_after_a_restart(
    hosts: Cluster, tmp_path: Path
) -> None:
    """Also of a job without another attempt: the output, of more than a slot holds, is the job's then."""
    first, _ = hosts.workers
    await ask(hosts, "POST", "/api/workers/second/drain")
    command = f"while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done; seq 100000; exit 7"
    job = (await ask(hosts, "POST", "/api/jobs", json={"command": command}))["job_id"]
    await started(first, job)
    await first.service.kill()
    await lose_first(hosts)
    assert (await attempt(hosts, job, 1))["ending"] == "lost"
    (tmp_path / "gate").touch()
    await until(lambda: not first.service.keepers(), what="the command has ended")
    await first.start()

    async def known() -> bool:
        return await is_found(hosts, job)

    await until(known, what="it was found")
    service: Service = hosts.apis[0].service
    result = await ask(hosts, "GET", f"/api/results/{job}")
    assert (result["ending"], result["found"]["exit_code"], result["host"]) == ("lost", 7, "first")
    assert await service.raw(job) == b"".join(b"%d\n" % number for number in range(1, 100_001))
