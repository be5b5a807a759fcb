"""What an empty job costs the server, in counts: turns of its loop, callbacks, tasks, calls and statements."""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shellrunner.supervisor.supervisor import SPARE_KEEPERS
from tests.support.attack import read_reply
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.sqlite(reason="it counts what a server does that runs jobs and answers, over SQLite")

_JOBS = 25  # of each client
_CLIENTS = 8
_MAX_RUNNING = 4
_BODY = b'{"command": "true"}'
_STATEMENTS = ("INSERT INTO jobs", "UPDATE jobs SET", "COMMIT")


@pytest.fixture
async def service(down: Service, tmp_path: Path) -> Service:
    """Yield a service that counts; see `tests.support.counted_server`."""
    down.program = [sys.executable, "-m", "tests.support.counted_server", "serve", "--port", "0"]
    down.environment["SHELLRUNNER_TESTS_COUNTS"] = str(tmp_path / "counts")
    return await down.start(SUPERVISOR__MAX_RUNNING=_MAX_RUNNING)


@asynccontextmanager
async def counted(service: Service, tmp_path: Path, jobs: int) -> AsyncIterator[dict[str, float]]:
    """Count what the server does while the block runs, for each of so many jobs; the counts are complete after it."""
    before = await _counts(service, tmp_path)
    found: dict[str, float] = {}
    yield found
    after = await _counts(service, tmp_path)
    found.update({name: round((after[name] - before[name]) / jobs, 2) for name in after})


async def _counts(service: Service, tmp_path: Path) -> Counter[str]:
    file = tmp_path / "counts"
    file.unlink(missing_ok=True)
    service.process.send_signal(signal.SIGUSR1)
    await until(file.exists)
    return Counter(json.loads(file.read_text()))


async def _post(service: Service, jobs: int, *headers: str) -> set[int]:
    """Submit jobs over one connection, one after the other; return the statuses of the responses."""
    port = int(service.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = (f"Host: localhost:{port}", "Content-Type: application/json", f"Content-Length: {len(_BODY)}", *headers)
    request = "\r\n".join(("POST /api/jobs HTTP/1.1", *lines, "", "")).encode() + _BODY
    statuses = set()
    for _ in range(jobs):
        writer.write(request)
        reply = await read_reply(reader)
        assert reply is not None
        statuses.add(reply.status)
    writer.close()
    return statuses


async def _drained(service: Service) -> bool:
    _, _, body = await service.get("/api/jobs?state=queued,running&limit=1")
    return not body["jobs"]


@pytest.mark.heavy
async def test_jobs_one_after_the_other(service: Service, tmp_path: Path) -> None:
    """On an idle server, with a client that waits for each job: two commits of one statement each, one task."""
    assert await _post(service, 5, "Prefer: wait=50") == {200}
    async with counted(service, tmp_path, _JOBS) as costs:
        assert await _post(service, _JOBS, "Prefer: wait=50") == {200}
    assert {name: costs[name] for name in _STATEMENTS} == dict.fromkeys(_STATEMENTS, 1) | {"COMMIT": 2}
    assert costs["tasks"] < 1.2  # aiohttp's, for the request
    assert costs["callbacks"] < 12
    assert costs["turns"] < 14
    assert costs["calls"] < 1020


@pytest.mark.heavy
async def test_many_jobs_at_once(service: Service, tmp_path: Path) -> None:
    """More clients than jobs may run: three statements and their places in line, and commits that jobs share."""
    await _post(service, 5, "Prefer: wait=50")
    async with counted(service, tmp_path, _CLIENTS * _JOBS) as costs:
        answers = await asyncio.gather(*(_post(service, _JOBS) for _ in range(_CLIENTS)))
        assert answers == [{202}] * _CLIENTS
        await until(lambda: _drained(service))
    assert len(service.keepers()) == _MAX_RUNNING + SPARE_KEEPERS
    assert costs["INSERT INTO jobs"] < 1.1
    assert costs["UPDATE jobs SET"] < 2.1
    assert costs["COMMIT"] < 1.5
    assert costs["tasks"] < 1.6
    assert costs["callbacks"] < 10  # fewer than one after the other, as jobs share them
    assert costs["calls"] < 860
