"""Stops at random moments of the start, several servers at a time; see also `tests/test_stop_moments.py`."""

import asyncio
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service
from tests.support.stop_moments import StartingServer, handles_sigterm, loads_modules

# From the first moment at which a signal can be handled at all; before it, Python itself is starting.
MOMENTS: Sequence[Callable[[StartingServer], Any]] = (
    lambda server: handles_sigterm(server.pid),
    lambda server: loads_modules(server.pid),
    lambda server: server.has("keepers.log"),
    lambda server: server.has("history.db"),
    lambda server: server.has("slots/*.sock"),
)
SIGNALS = ([signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM] * 2, [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])


@pytest.mark.heavy
@pytest.mark.timeout(600)
async def test_a_stop_at_any_moment_of_the_start_is_a_success(tmp_path: Path, seed: int, whole: bool) -> None:
    """Exit status 0, no error in the log, no process and no socket left; four at a time, programs and not forks."""
    chooser = random.Random(seed)
    starts = [
        (moment, signals, chooser.random() * 0.05)
        for _ in range(2 if whole else 1)
        for moment in MOMENTS
        for signals in (SIGNALS if whole else [chooser.choice(SIGNALS)])
    ]

    async def work(number: int) -> None:
        while starts:
            start = starts.pop()  # before the next await, during which another worker may take one
            server = await StartingServer.start(tmp_path / f"{number}-{len(starts)}", real_exec=True)
            await server.stop_when(*start)
            await server.nothing_is_left()

    await asyncio.gather(*map(work, range(4 if whole else 2)))


@pytest.mark.heavy
async def test_a_stop_while_running_jobs_are_adopted_leaves_them_to_the_next_server(
    service: Service, tmp_path: Path, seed: int, whole: bool
) -> None:
    """Stopped again and again while it finds its jobs: each time with 0, and every job ends with its own code."""
    chooser = random.Random(seed)
    jobs = {
        await service.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit {number}"): number
        for number in range(1, 7)
    }
    for job in jobs:
        await service.running(job)
    await service.kill()
    for _ in range(20 if whole else 4):
        server = await StartingServer.start(service.state_dir)
        await server.stop_when(_has_lock, chooser.choice(SIGNALS), chooser.random() * 0.06)
    (tmp_path / "go").touch()
    await service.start()
    assert {job: (await service.result(job))["exit_code"] for job in jobs} == jobs


def _has_lock(server: StartingServer) -> bool:
    """Whether it has written its pid into the lock's file: the history is opened next, and then jobs are adopted."""
    return (server.state_dir / "lock").read_text().split()[:1] == [str(server.pid)]
