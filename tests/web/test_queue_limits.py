"""Queues at run time: making, changing and removing them, the configuration's, and what is kept over restarts."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from shellrunner.config import QueueSettings
from shellrunner.store import queues as store_queues
from tests.support.attack import bearer
from tests.support.service import Service
from tests.support.site import Answer, Site, serving
from tests.support.tokens import hash_of, secret_of

CONFIGURED = {"queues": {"slow": QueueSettings(max_running=1, max_queued=2)}}
EMPTY = {"paused": False, "running": 0, "queued": 0, "waiting": 0, "oldest": None}


async def put(site: Site, name: str, headers: dict[str, str] | None = None, **limits: Any) -> Answer:
    return await site.ask("PUT", f"/api/queues/{name}", json=limits, headers=headers or {})


async def names(site: Site) -> list[str]:
    return [queue["queue"] for queue in (await site.get("/api/queues")).json["queues"]]


async def test_make_change_remove(site: Site) -> None:
    """A new queue is 201 with its location, a change 200, a removal 204; jobs may be submitted to it in between."""
    refused = await site.ask("POST", "/api/jobs", json={"command": "true", "queue": "mail"})
    assert refused.json["errors"] == [{"pointer": "#/queue", "detail": "must be one of the queues: default"}]
    answer = await put(site, "mail", max_running=2)
    assert (answer.status, answer.headers["Location"]) == (201, "/api/queues/mail")
    made = {"queue": "mail", "limit": 2, "max_queued": None, "configured": False, **EMPTY}
    assert answer.json == made
    assert (await site.get("/api/queues/mail")).json == made
    assert await names(site) == ["default", "mail"]
    answer = await put(site, "mail", max_queued=1)
    assert (answer.status, "Location" in answer.headers) == (200, False)
    assert answer.json == {**made, "limit": None, "max_queued": 1}
    job = await site.submit(queue="mail")
    assert (await site.ask("POST", "/api/jobs", json={"command": "true", "queue": "mail"})).status == 503
    answer = await site.ask("DELETE", "/api/queues/mail")
    assert (answer.status, answer.json["type"]) == (409, "/problems/queue-not-empty")
    await site.ask("POST", f"/api/jobs/{job}/cancel")
    assert (await site.ask("DELETE", "/api/queues/mail")).status == 204
    assert await names(site) == ["default"]
    for verb in ("GET", "DELETE"):
        assert (await site.ask(verb, "/api/queues/mail")).json["type"] == "/problems/no-such-queue"
    assert (await site.get(f"/api/jobs/{job}")).json["queue"] == "mail"


async def test_the_limit_counts_at_once(site: Site) -> None:
    """A raised limit starts what waits; after a lowered one nothing starts until few enough run."""
    await put(site, "mail", max_running=1)
    jobs = [await site.submit(queue="mail") for _ in range(3)]
    runner = site.simulated_runner()
    assert (await runner.claim()).job_id == jobs[0]
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        second = site.simulated_runner()
        claiming = tasks.create_task(second.claim())
        await asyncio.sleep(0)
        await put(site, "mail", max_running=2)
    assert claiming.result().job_id == jobs[1]
    await put(site, "mail", max_running=1)
    third = asyncio.ensure_future(site.simulated_runner().claim())
    await runner.finish()
    assert (await site.get(f"/api/statuses/{jobs[2]}")).json["state"] == "queued"
    await second.finish()
    async with asyncio.timeout(5):
        assert (await third).job_id == jobs[2]


async def test_a_configured_queue(tmp_path: Path) -> None:
    """A configured queue can be changed, not removed; what is set counts until it is what the configuration says."""
    async with serving(tmp_path, **CONFIGURED) as site:
        answer = await put(site, "slow", max_running=3)
        assert (answer.status, answer.json["limit"], answer.json["max_queued"]) == (200, 3, None)
        assert answer.json["configured"] is True
        answer = await site.ask("DELETE", "/api/queues/slow")
        assert (answer.status, answer.json["type"]) == (409, "/problems/queue-configured")
        assert (await site.ask("DELETE", "/api/queues/default")).status == 409
    async with serving(tmp_path, **CONFIGURED) as site:
        assert (await site.get("/api/queues/slow")).json["limit"] == 3
        await put(site, "slow", max_running=1, max_queued=2)
    async with serving(tmp_path, queues={"slow": QueueSettings(max_running=7)}) as site:
        assert (await site.get("/api/queues/slow")).json["limit"] == 7
        await put(site, "slow", max_running=4)
    async with serving(tmp_path) as site:  # the configuration does not name it any more
        slow = (await site.get("/api/queues/slow")).json
        assert (slow["limit"], slow["configured"]) == (4, False)
        await site.submit(queue="slow")


async def test_a_queue_that_is_not_configured_any_more(tmp_path: Path) -> None:
    """It is there while it has jobs, without limits, and takes none; it can be made again, or removed after them."""
    async with serving(tmp_path, **CONFIGURED) as site:
        job = await site.submit(queue="slow")
    async with serving(tmp_path) as site:
        slow = (await site.get("/api/queues/slow")).json
        assert (slow["limit"], slow["configured"], slow["queued"]) == (None, False, 1)
        assert (await site.ask("POST", "/api/jobs", json={"command": "true", "queue": "slow"})).status == 422
        assert (await put(site, "slow", max_running=1)).status == 200
        await site.submit(queue="slow")
        assert (await site.ask("DELETE", "/api/queues/slow")).status == 409
        await site.ask("POST", "/api/jobs/cancel?confirm=true")
        assert (await site.ask("DELETE", "/api/queues/slow")).status == 204
        assert (await site.get(f"/api/statuses/{job}")).json["done"] is True


async def test_a_removed_queue_takes_its_pause_along(tmp_path: Path) -> None:
    """A queue that is made again after it was removed while it was paused is not paused, also after a restart."""
    async with serving(tmp_path) as site:
        await put(site, "mail")
        await site.ask("POST", "/api/queues/mail/pause")
        assert (await put(site, "mail", max_running=1)).json["paused"] is True
        await site.ask("DELETE", "/api/queues/mail")
        assert (await put(site, "mail")).json["paused"] is False
    async with serving(tmp_path) as site:
        assert (await site.get("/api/queues/mail")).json["paused"] is False


@pytest.mark.parametrize(
    ("limits", "pointer"),
    [
        ({"max_running": 0}, "#/max_running"),
        ({"max_running": 1.5}, "#/max_running"),
        ({"max_queued": "3"}, "#/max_queued"),
        ({"max_queued": 10**10}, "#/max_queued"),
        ({"limit": 3}, "#/limit"),
    ],
)
async def test_invalid_limits(site: Site, limits: dict[str, Any], pointer: str) -> None:
    """Impossible limits are 422 with a pointer, and nothing is made."""
    answer = await put(site, "mail", **limits)
    assert (answer.status, answer.json["type"]) == (422, "/problems/invalid-queue")
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]
    assert await names(site) == ["default"]


@pytest.mark.parametrize("name", ["a%20b", "%D1%8F", "x" * 64, "*"])
async def test_invalid_names(site: Site, name: str) -> None:
    """What cannot name a queue is 400, and nothing is made."""
    answer = await put(site, name)
    assert (answer.status, answer.json["parameter"]) == (400, "name")
    assert await names(site) == ["default"]


async def test_bodies(site: Site) -> None:
    """null is as if absent; no JSON, or none at all, is refused as everywhere."""
    assert (await put(site, "mail", max_running=None, max_queued=3)).json["max_queued"] == 3
    kind = {"Content-Type": "application/json"}
    assert (await site.ask("PUT", "/api/queues/mail", data=b"{", headers=kind)).status == 400
    assert (await site.ask("PUT", "/api/queues/mail", data=b"[]", headers=kind)).status == 422
    assert (await site.ask("PUT", "/api/queues/mail")).status == 415
    assert (await site.get("/api/queues/mail")).json["max_queued"] == 3


async def test_preconditions(site: Site) -> None:
    """`If-None-Match: *` makes a queue only if there is none, `If-Match` changes one only if it is as it was read."""
    assert (await put(site, "mail", {"If-Match": "*"})).status == 412
    assert (await put(site, "mail", {"If-None-Match": "*"})).status == 201
    assert (await put(site, "mail", {"If-None-Match": "*"}, max_running=1)).status == 412
    tag = (await site.get("/api/queues/mail")).headers["ETag"]
    assert (await site.get("/api/queues/mail", headers={"If-None-Match": tag})).status == 304
    assert (await put(site, "mail", {"If-Match": tag}, max_running=1)).status == 200
    assert (await put(site, "mail", {"If-Match": tag}, max_running=2)).status == 412
    assert (await site.ask("DELETE", "/api/queues/mail", headers={"If-Match": tag})).status == 412
    assert (await site.ask("DELETE", "/api/queues/mail", headers={"If-Match": "*"})).status == 204


async def test_there_are_not_too_many(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the maximum no queue is made; those that there are can be changed, and removing one makes room."""
    monkeypatch.setattr(f"{type(site.store).__module__}.MAX_QUEUES", 2)
    assert (await put(site, "one")).status == 201
    answer = await put(site, "two")
    assert (answer.status, answer.json["type"], answer.json["limit"]) == (409, "/problems/too-many-queues", 2)
    assert (await put(site, "one", max_running=1)).status == 200
    await site.ask("DELETE", "/api/queues/one")
    assert (await put(site, "two")).status == 201
    assert store_queues.MAX_QUEUES >= 1000


async def test_who_may(tmp_path: Path) -> None:
    """Changing queues needs the scope `admin`, reading one `read`."""
    scopes = {"read": ["read"], "run": ["read", "run"], "admin": ["admin"]}
    tokens = [{"name": name, "hash": hash_of(name), "scopes": held} for name, held in scopes.items()]
    async with serving(tmp_path, auth={"tokens": tokens, "tokens_file": None}) as site:
        for who in scopes:
            sent = dict([bearer(secret_of(who)).split(": ", 1)])
            expected = (201, 204) if who == "admin" else (403, 403)
            made = await put(site, "mail", sent)
            removed = await site.ask("DELETE", "/api/queues/mail", headers=sent)
            assert (made.status, removed.status) == expected, who
            assert (await site.get("/api/queues/default", headers=sent)).status == (403 if who == "admin" else 200)


@pytest.mark.heavy
async def test_kept_over_kill_9(service: Service) -> None:
    """A queue that was made, and a limit that was set, still count after kill -9, and in metrics."""
    await service.stop()
    await service.start(SUPERVISOR__MAX_RUNNING=4, QUEUES__SLOW=json.dumps({"max_running": 1}))
    assert (await service.ask("PUT", "/api/queues/mail", json={"max_running": 1}))[0] == 201
    assert (await service.ask("PUT", "/api/queues/slow", json={"max_running": 2}))[0] == 200
    await service.restart()
    jobs = [await service.submit("sleep 60", queue=name) for name in ("mail", "mail", "slow", "slow", "slow")]
    for job in (jobs[0], jobs[2], jobs[3]):
        await service.running(job)
    states = [(await service.status(job))["state"] for job in jobs]
    assert states == ["running", "queued", "running", "running", "queued"]
    _, _, metrics = await service.get("/metrics")
    assert 'shellrunner_queue_limit{queue="mail"} 1.0' in metrics.decode()
    assert 'shellrunner_queue_limit{queue="slow"} 2.0' in metrics.decode()
    await service.ask("POST", "/api/jobs/cancel?confirm=true")
