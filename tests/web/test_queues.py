"""Queues: their counts, pausing and resuming, and jobs that do not fit."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import QueueSettings
from tests.support.service import Service
from tests.support.site import Site, serving

TWO_QUEUES = {"queues": {"default": QueueSettings(), "slow": QueueSettings(max_running=1, max_queued=2)}}


async def queue(site: Site | Service, name: str) -> dict[str, Any]:
    """Return one queue of the list."""
    answer = await site.get("/api/queues")
    document = answer[2] if isinstance(answer, tuple) else answer.json
    (found,) = [each for each in document["queues"] if each["queue"] == name]
    return dict(found)


async def test_list(tmp_path: Path) -> None:
    """All configured queues are listed with their limits, counts and the time of the oldest queued job."""
    async with serving(tmp_path, **TWO_QUEUES) as site:
        empty = {"configured": True, "paused": False, "running": 0, "queued": 0, "waiting": 0, "oldest": None}
        slow, default = {"queue": "slow", "limit": 1, "max_queued": 2}, {"queue": "default", "limit": None}
        default["max_queued"] = None
        answer = await site.get("/api/queues")
        assert answer.status == 200
        assert answer.json == {
            "paused": False,
            "held": None,
            "queues": [{**default, **empty}, {**slow, **empty}],
        }
        first = await site.submit(queue="slow")
        await site.submit(queue="slow")
        await site.submit(after=[first])
        created = (await site.get("/api/jobs/2")).json["created"]
        await site.simulated_runner().claim()
        assert await queue(site, "slow") == {
            **slow, **empty, "running": 1, "queued": 1, "oldest": created,
        }  # fmt: skip
        assert await queue(site, "default") == {**default, **empty, "waiting": 1}
        unchanged = await site.get("/api/queues", headers={"If-None-Match": answer.headers["ETag"]})
        assert unchanged.status == 200
        tag = unchanged.headers["ETag"]
        assert (await site.get("/api/queues", headers={"If-None-Match": tag})).status == 304


async def test_pause_and_resume(tmp_path: Path) -> None:
    """A paused queue starts nothing until it is resumed, while another one runs; both may be repeated."""
    async with serving(tmp_path, **TWO_QUEUES) as site:
        for _ in range(2):
            answer = await site.ask("POST", "/api/queues/slow/pause")
            assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
            assert (answer.json["queue"], answer.json["paused"]) == ("slow", True)
        held, other = await site.submit(queue="slow"), await site.submit()
        assert (await site.simulated_runner().claim()).job_id == other
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            claiming = tasks.create_task(site.simulated_runner().claim())
            assert (await queue(site, "slow"))["queued"] == 1
            for _ in range(2):
                answer = await site.ask("POST", "/api/queues/slow/resume")
                assert (answer.status, answer.json["paused"]) == (200, False)
        assert claiming.result().job_id == held


async def test_pause_all_then_resume_one(tmp_path: Path) -> None:
    """Pausing all queues responds like GET; a single one can be resumed, and then runs."""
    async with serving(tmp_path, **TWO_QUEUES) as site:
        answer = await site.ask("POST", "/api/queues/pause")
        assert answer.status == 200
        assert answer.json == (await site.get("/api/queues")).json
        assert answer.json["paused"] is True
        assert [each["paused"] for each in answer.json["queues"]] == [True, True]
        await site.submit()
        wanted = await site.submit(queue="slow")
        answer = await site.ask("POST", "/api/queues/slow/resume")
        assert answer.json["paused"] is False
        assert (await queue(site, "default"))["paused"] is True
        assert (await site.simulated_runner().claim()).job_id == wanted
        answer = await site.ask("POST", "/api/queues/resume")
        assert answer.json["paused"] is False
        assert [each["paused"] for each in answer.json["queues"]] == [False, False]
        assert (await site.simulated_runner().claim()).job_id == 1


@pytest.mark.parametrize("name", ["nosuch", "Default", "a%20b", "%D1%8F", "x" * 70, "*"])
async def test_unknown_queue(site: Site, name: str) -> None:
    """An unknown queue is 404, and nothing is paused."""
    for verb in ("pause", "resume"):
        answer = await site.ask("POST", f"/api/queues/{name}/{verb}")
        assert (answer.status, answer.json["type"]) == (404, "/problems/no-such-queue")
    assert (await queue(site, "default"))["paused"] is False


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/api/queues", "GET, HEAD, OPTIONS"),
        ("/api/queues/default", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/api/queues/pause", "OPTIONS, POST"),
        ("/api/queues/resume", "OPTIONS, POST"),
        ("/api/queues/default/pause", "OPTIONS, POST"),
        ("/api/queues/default/resume", "OPTIONS, POST"),
        ("/api/statuses/events", "GET, HEAD, OPTIONS"),
        ("/api/jobs", "DELETE, GET, HEAD, OPTIONS, POST"),
    ],
)
async def test_verbs(site: Site, path: str, allow: str) -> None:
    """Each path lists its methods in Allow, and rejects every other."""
    answer = await site.ask("OPTIONS", path)
    assert (answer.status, answer.headers["Allow"]) == (204, allow)
    for verb in {"GET", "POST", "PUT", "PATCH", "DELETE"} - set(allow.split(", ")):
        answer = await site.ask(verb, path)
        assert (answer.status, answer.headers["Allow"]) == (405, allow)
    assert (await site.get("/api/queues?x=1")).status == 400
    assert (await site.ask("HEAD", "/api/queues")).status == 200


async def test_no_such_queue_for_a_job(site: Site) -> None:
    """A job for a queue that is not configured is 422 that names those that are."""
    for name in ("nosuch", ".", ".."):
        answer = await site.ask("POST", "/api/jobs", json={"command": "true", "queue": name})
        assert answer.status == 422
        assert answer.json["errors"] == [{"pointer": "#/queue", "detail": "must be one of the queues: default"}]


async def test_full(tmp_path: Path) -> None:
    """A job beyond the limit of its queue, or of all queues, is 503 with Retry-After and not accepted."""
    async with serving(tmp_path, supervisor={"max_queued": 3}, **TWO_QUEUES) as site:
        for _ in range(2):
            await site.submit(queue="slow")
        refused = await site.ask("POST", "/api/jobs", json={"command": "true", "queue": "slow"})
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert (refused.json["type"], refused.json["limit"]) == ("/problems/queue-full", 2)
        await site.submit()
        refused = await site.ask("POST", "/api/jobs", json={"command": "true"})
        assert (refused.status, refused.json["type"], refused.json["limit"]) == (503, "/problems/queue-full", 3)
        jobs = (await site.get("/api/jobs")).json["jobs"]
        assert [job["job_id"] for job in jobs] == [3, 2, 1]
        await site.simulated_runner().claim()
        await site.submit()


@pytest.mark.heavy
async def test_full_under_a_rush(tmp_path: Path) -> None:
    """Of a hundred jobs that are submitted at once to a queue with room for ten, exactly ten are accepted."""
    async with serving(tmp_path, supervisor={"max_queued": 10}) as site:
        asked = [site.ask("POST", "/api/jobs", json={"command": "true"}) for _ in range(100)]
        answers = [answer.status for answer in await asyncio.gather(*asked)]
        assert sorted(answers) == [202] * 10 + [503] * 90
        assert len((await site.get("/api/jobs")).json["jobs"]) == 10


@pytest.mark.heavy
async def test_one_at_a_time(service: Service, tmp_path: Path) -> None:
    """A queue with a limit of one runs one job after the other, while another queue runs beside it."""
    await service.stop()
    await service.start(SUPERVISOR__MAX_RUNNING=4, QUEUES__SLOW=json.dumps({"max_running": 1}))
    gate, log = tmp_path / "gate", tmp_path / "log"
    command = f"echo in >> {log}; while [ ! -e {gate} ]; do sleep 0.01; done; echo out >> {log}"
    slow = [await service.submit(command, queue="slow") for _ in range(4)]
    await service.running(slow[0])
    assert (await service.run("echo beside"))["stdout"] == "beside\n"
    slow_queue = await queue(service, "slow")
    assert (slow_queue["running"], slow_queue["queued"], slow_queue["limit"]) == (1, 3, 1)
    gate.touch()
    for job in slow:
        assert (await service.result(job))["exit_code"] == 0
    assert log.read_text().split() == ["in", "out"] * 4


@pytest.mark.heavy
async def test_paused_over_a_restart(service: Service) -> None:
    """A paused queue is still paused after kill -9, running jobs continue, and resuming starts the queued ones."""
    running = await service.submit("sleep 0.3; echo ran")
    await service.running(running)
    await service.ask("POST", "/api/queues/pause")
    held = await service.submit("echo held")
    await service.restart()
    assert (await service.result(running))["stdout"] == "ran\n"
    _, _, queues = await service.get("/api/queues")
    assert (queues["paused"], queues["queues"][0]["queued"]) == (True, 1)
    assert (await service.status(held))["state"] == "queued"
    await service.ask("POST", "/api/queues/default/resume")
    assert (await service.result(held))["stdout"] == "held\n"


async def test_a_pause_is_for_what_comes_too(tmp_path: Path) -> None:
    """A job for a paused queue is accepted, and not started."""
    async with serving(tmp_path, **TWO_QUEUES) as site:
        await site.ask("POST", "/api/queues/slow/pause")
        claiming = asyncio.ensure_future(site.simulated_runner().claim())
        held = await site.submit(queue="slow")
        other = await site.submit()
        async with asyncio.timeout(5):
            assert (await claiming).job_id == other
        assert (await site.get(f"/api/statuses/{held}")).json["state"] == "queued"
