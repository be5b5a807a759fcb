"""The hosts of a history that has one: it is listed, and can be neither drained nor removed."""

import pytest

from tests.support.site import Site


@pytest.mark.sqlite(reason="it is about a single host")
async def test_a_single_host_is_listed(site: Site) -> None:
    """With what it runs at the moment; the list and the host itself are the same document."""
    await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    (worker,) = (await site.get("/api/workers")).json["workers"]
    assert (worker["runs_jobs"], worker["reachable"], worker["draining"]) == (True, True, False)
    assert (worker["queues"], worker["running"], worker["responding"]) == (None, 1, True)
    shown = (await site.get(f"/api/workers/{worker['host']}")).json
    assert {**shown, "seen": worker["seen"]} == worker
    await runner.finish()


@pytest.mark.sqlite(reason="it is about a single host")
async def test_a_job_of_a_single_host_names_none(site: Site) -> None:
    """As there is no other: not while it runs, and not when it is done."""
    job_id = await site.done()
    documents = [(await site.get(f"/api/{kind}/{job_id}")).json for kind in ("jobs", "statuses", "results")]
    assert [each["host"] for each in documents] == [None] * 3
    assert (documents[1]["unreachable"], documents[2]["found"]) == (None, None)
    assert (await site.get("/api/jobs?host=localhost")).json["jobs"] == []


@pytest.mark.sqlite(reason="it is about a single host")
@pytest.mark.parametrize(
    ("verb", "path"), [("POST", "/drain"), ("POST", "/resume"), ("DELETE", "?confirm=true")], ids=str
)
async def test_a_single_host_is_not_changed(site: Site, verb: str, path: str) -> None:
    """The answer names what helps; a host that does not exist is another problem."""
    answer = await site.ask(verb, f"/api/workers/localhost{path}")
    assert (answer.status, answer.json["type"]) == (409, "/problems/only-host")
    answer = await site.ask(verb, f"/api/workers/nowhere{path}")
    assert (answer.status, answer.json["type"]) == (404, "/problems/no-such-host")


@pytest.mark.sqlite(reason="it is about a single host")
async def test_the_removal_of_a_reachable_host_is_refused_before_it_is_confirmed(site: Site) -> None:
    """Nobody is asked to confirm what cannot be done."""
    assert (await site.ask("DELETE", "/api/workers/localhost")).json["type"] == "/problems/host-reachable"
    assert (await site.ask("DELETE", "/api/workers/nowhere")).json["type"] == "/problems/no-such-host"
    assert (await site.get("/api/workers/nowhere")).status == 404
