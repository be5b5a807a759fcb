"""C5: the server's wall clock is set, forwards and backwards, while it runs and while it is down."""

from pathlib import Path
from typing import Any

import pytest

from shellrunner.supervisor import verdict
from tests.support.clocks import DAY, ServerClock
from tests.support.service import Service
from tests.support.waiting import until


@pytest.fixture
def clock(tmp_path: Path, down: Service) -> ServerClock:
    return ServerClock(tmp_path, down)


async def noticed(service: Service) -> list[dict[str, Any]]:
    """Have the service check its history now, not only every few seconds; return what it logged of its clock."""
    await service.get("/readyz")
    return [line for line in service.log if line["event"].startswith("the clock was set")]


async def noticed_again(service: Service) -> bool:
    return len(await noticed(service)) >= 2


async def all_jobs(service: Service) -> set[int]:
    _, _, body = await service.get("/api/jobs?limit=1000")
    return {job["job_id"] for job in body["jobs"]}


@pytest.mark.heavy
@pytest.mark.parametrize("between", [False, True], ids=["while it runs", "between two runs"])
async def test_c5_a_clock_that_is_60_days_ahead_deletes_nothing(
    down: Service, clock: ServerClock, between: bool, whole: bool
) -> None:
    """C5: everything is still there, and a line says that the clock was set; a removal for the number goes on."""
    if between and not whole:
        pytest.skip("only with --faults whole")
    await down.start(STORE__RETENTION_DAYS=30, STORE__RETENTION_JOBS=5)
    jobs = {await down.submit("true") for _ in range(4)}
    for job in jobs:
        await down.result(job)
    # A mark of the true clock is there once the first health check was made.
    assert (await down.get("/readyz"))[0] == 200
    if between:
        await down.kill()
        clock.set(60 * DAY)
        await down.start()
    else:
        clock.set(60 * DAY)
    await until(lambda: noticed(down))
    more = {await down.submit("true") for _ in range(3)}
    for job in more:
        await down.result(job)

    async def five() -> bool:
        return len(await all_jobs(down)) == 5

    await until(five)
    removed = await until(lambda: [line for line in down.log if line["event"] == "retention removed jobs"])
    assert "number" in removed[0]
    assert not any("age" in line for line in removed)
    left = await all_jobs(down)
    clock.set(0)
    await until(lambda: noticed_again(down))
    assert await all_jobs(down) == left


@pytest.mark.heavy
async def test_c5_what_is_really_too_old_is_removed_with_a_line(down: Service, clock: ServerClock) -> None:
    """C5: jobs that were older than the limit all the time are removed at the start, and the log says how many."""
    await down.start(STORE__RETENTION_DAYS=1)
    job = await down.submit("true")
    await down.result(job)
    await down.kill()
    await down.start(STORE__RETENTION_DAYS=1e-7)

    async def gone() -> bool:
        return (await down.get(f"/api/jobs/{job}"))[0] == 404

    await until(gone)
    await until(lambda: any(line.get("age") == 1 for line in down.log if line["event"] == "retention removed jobs"))


@pytest.mark.heavy
async def test_c5_a_key_does_not_expire_by_a_jump(down: Service, clock: ServerClock) -> None:
    """C5: with the clock two days ahead, a retry with the same key is still the same job."""
    await down.start()
    request = {"json": {"command": "true"}, "headers": {"Idempotency-Key": '"once"'}}
    _, _, first = await down.ask("POST", "/api/jobs", **request)
    clock.set(2 * DAY)
    _, _, second = await down.ask("POST", "/api/jobs", **request)
    assert first["job_id"] == second["job_id"]


@pytest.mark.heavy
@pytest.mark.parametrize("days", [-42, 42])
async def test_c5_a_retry_is_due_after_its_delay(
    down: Service, clock: ServerClock, tmp_path: Path, days: int, whole: bool
) -> None:
    """C5: with the clock set six weeks back, or ahead, while a retry waits, it comes after its delay, not before."""
    if days > 0 and not whole:
        pytest.skip("only with --faults whole")
    await down.start()
    command = f'date +%s.%N >> {tmp_path}/ran; [ "$(wc -l < {tmp_path}/ran)" = 2 ]'
    job = await down.submit(command, retries={"max": 1, "delay": 3})

    async def waits() -> bool:
        return bool((await down.status(job))["state"] == "waiting")

    await until(waits)
    clock.set(days * DAY)
    result = await down.result(job, 30)
    first, second = map(float, (tmp_path / "ran").read_text().split())
    assert result["attempt"] == 2
    assert 3 <= second - first < 15


@pytest.mark.heavy
async def test_c5_a_retry_is_due_after_its_delay_over_a_restart(down: Service, clock: ServerClock) -> None:
    """C5: the clock is set back while the service is down: the retry comes all the same."""
    await down.start()
    job = await down.submit('[ "$SHELLRUNNER_JOB_ID" = x ]', retries={"max": 1, "delay": 2})

    async def waits() -> bool:
        return bool((await down.status(job))["state"] == "waiting")

    await until(waits)
    await down.kill()
    clock.set(-42 * DAY)
    await down.start()
    assert (await down.result(job, 30))["attempt"] == 2


@pytest.mark.parametrize(
    ("end", "completed"),
    [
        ({"wall": 5000, "started": 1000, "duration": 4.0}, 5000),
        ({"wall": 500, "started": 1000, "duration": 4.0}, 5000),
        ({"wall": 500, "started": 1000}, 1000),
        ({"wall": 500}, 500),
    ],
)
def test_c5_an_end_is_not_before_its_start(end: dict[str, Any], completed: int) -> None:
    """C5: with the clock set back while it ran, a job is completed at its start plus its duration."""
    assert verdict._completed(end) == completed
