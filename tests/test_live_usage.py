"""Live usage: what it counts, that it only grows, what it costs to ask."""

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellrunner import live_usage
from shellrunner.live_usage import UsageMeter
from tests.support.service import InProcess, Service
from tests.support.users import sees_keepers
from tests.support.waiting import until

pytestmark = sees_keepers


async def usage(service: Service, job: int) -> Any:
    """Return what GET …/usage answers: (status, body)."""
    status, _, body = await service.get(f"/api/statuses/{job}/usage")
    return status, body


@pytest.mark.heavy
async def test_all_processes_of_a_job_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU time, share, memory and number of what runs, in whatever session, by job and for all jobs at once."""
    looks: list[int] = []
    read = live_usage._read_processes

    def look() -> Any:
        looks.append(1)
        return read()

    monkeypatch.setattr(live_usage, "_read_processes", look)
    async with InProcess(tmp_path / "state") as service:
        busy = await service.submit("setsid sh -c 'while :; do :; done' & setsid sleep 600 & wait")
        idle = await service.submit("exec sleep 600")
        for job in (busy, idle):
            await service.running(job)

        async def has_worked() -> Any:
            _, body = await usage(service, busy)
            return body if body["cpu_seconds"] > 0.1 and body["processes"] == 3 else None

        body = await until(has_worked)
        assert set(body) == {
            "status_id", "job_id", "processes", "cpu_seconds", "cpu_share", "interval", "rss_bytes", "stopped"
        }  # fmt: skip
        assert 0 < body["cpu_share"] <= body["cpu_seconds"] / body["interval"] + 0.1
        assert body["rss_bytes"] > 100_000
        before = len(looks)
        answers = await asyncio.gather(*(service.get("/api/statuses/usage") for _ in range(30)))
        assert len(looks) <= before + 3, "those who ask at about the same time share a look"
        for status, headers, every in answers:
            assert (status, headers["Cache-Control"]) == (200, "no-store")
            assert every["processors"] == len(os.sched_getaffinity(0))
            assert [row["job_id"] for row in every["usages"]] == [busy, idle]
            assert every["usages"][1]["processes"] == 1
            assert every["usages"][1]["cpu_seconds"] < 0.1
        for job in (busy, idle):
            await service.ask("POST", f"/api/jobs/{job}/cancel")
            await service.result(job)
        assert (await usage(service, idle))[1]["type"] == "/problems/not-running"
        assert (await usage(service, 99))[1]["type"] == "/problems/no-such-job"
        assert (await service.get("/api/statuses/usage"))[2]["usages"] == []


async def test_it_is_measured_only_on_request() -> None:
    """A meter that nobody asks reads nothing and starts nothing, and it forgets jobs that do not run any more."""
    me = live_usage.MeasuredJob(1, "t", 0, os.getppid())
    kept = [me]
    meter = UsageMeter(lambda: kept)
    assert (await meter.measure())[1].processes >= 1
    kept.clear()
    meter._measured_at = 0.0
    assert await meter.measure() == {}
    assert not meter._samples


@given(st.lists(st.tuples(st.floats(0.01, 30), st.integers(0, 10_000)), min_size=1, max_size=30))
def test_it_never_shrinks_and_covers_a_second(steps: list[tuple[float, int]]) -> None:
    """Whatever ends meanwhile: CPU time never falls, the share is never negative, and it covers a recent second."""
    samples = deque([live_usage._Sample(0.0, 0.0)])
    now = shown = 0.0
    times = [0.0]
    for seconds, ticks in steps:
        now += seconds
        process = live_usage._ProcessUsage(1, 1, is_alive=True, is_stopped=False, ticks=ticks, pages=1)
        found = live_usage._usage([process], samples, now)
        assert found.cpu_seconds >= shown
        assert found.cpu_share >= 0
        # The newest earlier measurement that is at least a second old, else the first one that is remembered.
        assert any(abs(now - found.interval - time) < 1e-6 for time in times)
        assert found.interval >= min(1.0, now) - 1e-6
        shown = found.cpu_seconds
        times.append(now)
