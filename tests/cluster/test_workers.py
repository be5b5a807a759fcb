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
