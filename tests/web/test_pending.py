"""Why a job waits: the first thing in its way, in the status of the job and in the list."""

from pathlib import Path
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.config import QueueSettings
from shellrunner.model import End, Ending
from tests.support.site import Site, serving
from tests.support.tokens import hash_of

from .test_session import bearer

LATER = "2100-01-01T00:00:00.000Z"
SETTINGS: dict[str, Any] = {
    "queues": {"default": QueueSettings(), "slow": QueueSettings(max_running=1)},
    "auth": {
        "tokens": [
            {"name": "ci", "hash": hash_of("ci"), "scopes": ["read", "run", "admin"]},
            {"name": "few", "hash": hash_of("few"), "scopes": ["read", "run"], "max_running": 1},
        ],
        "tokens_file": None,
    },
}


async def ask(site: Site, verb: str, path: str, token: str = "ci", **more: Any) -> Any:
    answer = await site.ask(verb, path, headers=bearer(token), **more)
    assert answer.status < 300, answer.body
    return answer.json


async def submit(site: Site, token: str = "ci", **job: Any) -> int:
    return int((await ask(site, "POST", "/api/jobs", token, json={"command": "true", **job}))["job_id"])


async def pending(site: Site, job_id: int) -> tuple[str, str] | None:
    """Return why the job waits; the list says the same."""
    status = await ask(site, "GET", f"/api/statuses/{job_id}")
    (listed,) = [row for row in (await ask(site, "GET", "/api/statuses"))["statuses"] if row["job_id"] == job_id]
    assert listed == status
    return (status["pending"]["reason"], status["pending"]["detail"]) if status["pending"] else None


@pytest.mark.sqlite(reason="in a cluster the counts of queues may be a second old")
async def test_the_first_reason_is_given_and_the_next_one_after_it(tmp_path: Path) -> None:
    """Each time the first obstacle is removed the next one is named, until the job runs; then there is none."""
    async with serving(tmp_path, **SETTINGS) as site:
        runner = site.simulated_runner()
        first = await submit(site, queue="slow")
        assert await pending(site, first) == ("places", "no keeper is ready yet to run it")
        assert (await runner.claim()).job_id == first
        assert await pending(site, first) is None
        second, third = await submit(site, after=[first]), await submit(site, queue="slow", after=[first])
        held = await submit(site, held=True, after=[second, third], start_at=LATER)
        assert await pending(site, held) == ("held", "it is held until it is released")
        assert await pending(site, second) == ("after", f"it waits for job {first}")
        both = await submit(site, after=[third, second], start_at=LATER)
        assert await pending(site, both) == ("after", f"it waits for job {second} and 1 other")
        at = await submit(site, start_at=LATER)
        assert await pending(site, at) == ("start_at", f"it starts at {LATER} at the earliest")
        await runner.finish()
        other = await submit(site, queue="slow")
        assert (await runner.claim()).job_id == second
        assert (await site.simulated_runner().claim()).job_id == third
        assert await pending(site, other) == ("queue_limit", "queue slow runs at most 1 job at once")
        await ask(site, "POST", "/api/queues/slow/pause")
        assert await pending(site, other) == ("queue_paused", "queue slow is paused")
        await ask(site, "POST", "/api/queues/pause")
        assert await pending(site, other) == ("service_paused", "all queues are paused")
        await ask(site, "POST", "/api/queues/resume")
        assert await pending(site, await submit(site)) == (
            "places",
            "the service is at its limit: 2 jobs are running",
        )


@pytest.mark.sqlite(reason="in a cluster due times are those of the clock of the database")
async def test_the_next_attempt_and_the_share_of_a_token_are_reasons(tmp_path: Path) -> None:
    """A retry names its number and time; a token that may run no more names itself and its limit."""
    async with serving(tmp_path, **SETTINGS) as site:
        runner = site.simulated_runner()
        tried = await submit(site, retries={"max": 1, "delay": 60})
        await runner.claim()
        end = End(Ending.EXITED, now_ms(), exit_code=1, started=now_ms(), duration=0.1)
        await runner.finish(end, next_attempt_at=4_102_444_800_000)
        assert await pending(site, tried) == ("retry", f"attempt 2 starts at {LATER} at the earliest")
        running, waiting = await submit(site, "few"), await submit(site, "few")
        assert (await runner.claim()).job_id == running
        assert await pending(site, waiting) == ("token_limit", "token:few runs at most 1 job at once")


async def test_a_status_is_not_reused_once_the_reason_has_changed(tmp_path: Path) -> None:
    """The same row gives another document and ETag once its queue is paused, and 304 while nothing changes."""
    async with serving(tmp_path) as site:
        job_id = await site.submit()
        one = await site.get(f"/api/statuses/{job_id}")
        tag = {"If-None-Match": one.headers["ETag"]}
        assert (await site.get(f"/api/statuses/{job_id}", headers=tag)).status == 304
        await site.ask("POST", "/api/queues/pause")
        assert (await site.get(f"/api/statuses/{job_id}", headers=tag)).json["pending"]["reason"] == "service_paused"


@pytest.mark.sqlite(reason="it is the disk of the file; in a cluster the one of a worker, which other jobs may avoid")
async def test_a_full_disk_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be claimed because the disk is full, a queued job says so."""
    async with serving(tmp_path) as site:
        job_id = await site.submit()
        reserve = site.store._engine._writer._reserve  # type: ignore[attr-defined]
        monkeypatch.setattr(reserve, "restore", lambda: False)
        monkeypatch.setattr(reserve, "is_whole", False)
        found = (await site.get(f"/api/statuses/{job_id}")).json["pending"]
        assert (found["reason"], "the disk is full" in found["detail"]) == ("storage", True)


async def test_a_name_is_shown_found_and_sorted_by(tmp_path: Path) -> None:
    """Job, status and result have it; lists filter by it, search in it and sort by it, jobs without one last."""
    async with serving(tmp_path) as site:
        plain = await site.done()
        nightly, backup = await site.done(name="nightly"), await site.done(name="Backup.2", command="echo nightly")
        for path in ("jobs", "statuses", "results"):
            answer = await site.get(f"/api/{path}?sort=name")
            assert [row["job_id"] for row in answer.json[path]] == [backup, nightly, plain]
            assert [row["name"] for row in answer.json[path]] == ["Backup.2", "nightly", None]
            found = (await site.get(f"/api/{path}?name=nightly,other")).json[path]
            assert [row["job_id"] for row in found] == [nightly]
        assert [row["job_id"] for row in (await site.get("/api/jobs?q=NIGHT")).json["jobs"]] == [backup, nightly]
        assert (await site.get(f"/api/results/{nightly}")).json["name"] == "nightly"
        assert (await site.ask("POST", "/api/jobs", json={"command": "true", "name": "no name"})).status == 422
        assert (await site.get("/api/jobs?name=no%20name")).status == 400
