"""The hosts of a cluster as clients see them at any node: listed, drained, unreachable, removed."""

import pytest

from shellrunner.client import Client
from tests.cluster.conftest import TOKEN, TwoNodes
from tests.support.service import Service
from tests.support.tokens import secret_of
from tests.support.waiting import until


async def ask(node: Service, verb: str, path: str, **options: object) -> tuple[int, dict]:  # type: ignore[type-arg]
    """Return the status and the document of an answer."""
    status, _, document = await node.ask(verb, path, **options)
    return status, document


@pytest.mark.heavy
async def test_each_node_lists_both(nodes: TwoNodes) -> None:
    """With the same figures, and which of them responds."""
    for node, name in zip(nodes.each, "ab", strict=True):
        _, listed = await ask(node, "GET", "/api/workers")
        assert [(each["host"], each["reachable"], each["responding"]) for each in listed["workers"]] == [
            ("a", True, name == "a"),
            ("b", True, name == "b"),
        ]


@pytest.mark.heavy
async def test_a_drained_host_starts_nothing(nodes: TwoNodes) -> None:
    """Every job runs on the other one, whose name it has; it can be drained and resumed at any node."""
    status, drained = await ask(nodes.b, "POST", "/api/workers/a/drain")
    assert (status, drained["draining"], drained["free"]) == (200, True, 0)
    for node in nodes.each:
        for _ in range(4):
            _, job = await ask(node, "POST", "/api/jobs", json={"command": "true"})
            status, _ = await ask(node, "GET", f"/api/statuses/{job['job_id']}")
    await until(lambda: nodes.execute("SELECT count(*) FROM jobs WHERE state = 'done'") == [(8,)])
    _, jobs = await ask(nodes.a, "GET", "/api/statuses?host=b")
    assert len(jobs["statuses"]) == 8
    assert {each["host"] for each in jobs["statuses"]} == {"b"}
    assert (await ask(nodes.a, "GET", "/api/results?host=a"))[1]["results"] == []
    status, resumed = await ask(nodes.a, "POST", "/api/workers/a/resume")
    assert (status, resumed["draining"]) == (200, False)


async def state_of_b(nodes: TwoNodes) -> tuple[bool, bool]:
    """Return whether host `b` is reachable, and whether it is stopped."""
    _, host = await ask(nodes.a, "GET", "/api/workers/b")
    return host["reachable"], host["stopped"]


@pytest.mark.heavy
async def test_a_host_that_was_stopped_is_not_missed(nodes: TwoNodes) -> None:
    """It says so at once, is no alarm, can be removed, and is open again when it is started."""
    assert await state_of_b(nodes) == (True, False)
    assert await nodes.b.stop() == 0
    assert await state_of_b(nodes) == (False, True)
    await until(lambda: count_of_hosts(nodes.a, "stopped"), what="it has read that")
    assert not await count_of_hosts(nodes.a, "unreachable")
    await nodes.b.start()
    assert await state_of_b(nodes) == (True, False)
    assert (await ask(nodes.a, "DELETE", "/api/workers/b"))[1]["type"] == "/problems/host-reachable"
    assert await nodes.b.stop() == 0
    assert await ask(nodes.a, "DELETE", "/api/workers/b?confirm=true") == (200, {"lost": 0})


@pytest.mark.heavy
async def test_a_host_whose_jobs_go_on_is_not_stopped(nodes: TwoNodes) -> None:
    """Nobody knows how they end before its server is there again: it becomes unreachable, as after any death."""
    await ask(nodes.a, "POST", "/api/workers/a/drain")
    job = await nodes.a.submit("sleep 600")
    await until(lambda: nodes.execute("SELECT host FROM jobs WHERE state = 'running'") == [("b",)])
    assert await nodes.b.stop() == 0
    assert await state_of_b(nodes) == (True, False)
    nodes.execute("UPDATE hosts SET seen = seen - interval '1 minute', unreachable = seen WHERE name = 'b'")
    assert await state_of_b(nodes) == (False, False)
    assert (await nodes.a.status(job))["unreachable"]["host"] == "b"


async def count_of_hosts(node: Service, state: str) -> float:
    """Return how many hosts are in this state, by the metrics of a node."""
    _, _, body = await node.get("/metrics")
    return float(body.decode().partition(f'shellrunner_hosts{{state="{state}"}} ')[2].split()[0])


@pytest.mark.heavy
async def test_an_unreachable_host_is_removed_after_confirmation(nodes: TwoNodes) -> None:
    """Its jobs say so while they run by the history, and are lost with it."""
    await ask(nodes.a, "POST", "/api/workers/a/drain")
    _, job = await ask(nodes.a, "POST", "/api/jobs", json={"command": "sleep 600"})
    path = f"/api/statuses/{job['job_id']}"

    async def runs() -> bool:
        return bool((await ask(nodes.a, "GET", path))[1]["host"] == "b")

    await until(runs)
    assert (await ask(nodes.a, "DELETE", "/api/workers/b"))[1]["type"] == "/problems/host-reachable"
    await nodes.b.kill()
    nodes.execute("UPDATE hosts SET seen = seen - interval '1 minute', unreachable = seen WHERE name = 'b'")

    async def is_unreachable() -> bool:
        return (await ask(nodes.a, "GET", path))[1]["unreachable"] is not None

    await until(is_unreachable)
    _, status = await ask(nodes.a, "GET", path)
    assert (status["state"], status["unreachable"]["host"]) == ("running", "b")
    client = Client(nodes.a.url, token=secret_of(TOKEN))
    async with client:
        assert await client.remove_worker("b") == 1
        assert await client.remove_worker("b", confirm=True) == 1
        assert [each["host"] for each in (await client.workers())["workers"]] == ["a"]
    _, result = await ask(nodes.a, "GET", f"/api/results/{job['job_id']}")
    assert (result["ending"], result["host"], result["found"]) == ("lost", "b", None)
