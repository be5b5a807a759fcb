"""Cancel by a list's filters: what is cancelled and in which order, the confirmation, and whose jobs they are."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shellrunner.model import JobSpec
from shellrunner.store.query import selection
from tests.support.attack import bearer
from tests.support.service import Service
from tests.support.site import Site, serving
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import until


async def states(site: Site) -> dict[int, str]:
    """Return the state of every job; of one that is done its ending, and `cancelling` while it is being cancelled."""
    rows = (await site.get("/api/statuses?limit=1000")).json["statuses"]
    return {row["status_id"]: "cancelling" if row["cancelling"] else row["ending"] or row["state"] for row in rows}


async def test_all_that_is_not_done(site: Site) -> None:
    """Without filters every job that is not done is cancelled, in whatever state, and again while it is under way."""
    await site.done(b"x")
    running = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    queued = await site.submit()
    await site.submit(after=[queued])
    await site.submit(start_at="2100-01-01T00:00:00Z")
    preview = await site.ask("POST", "/api/jobs/cancel")
    assert (preview.status, preview.json["type"]) == (400, "/problems/unconfirmed")
    assert (preview.json["cancelled"], preview.json["parameter"]) == (4, "confirm")
    assert await states(site) == {1: "exited", 2: "running", 3: "queued", 4: "waiting", 5: "waiting"}
    answer = await site.ask("POST", "/api/jobs/cancel?confirm=true")
    assert (answer.status, answer.json, answer.headers["Cache-Control"]) == (200, {"cancelled": 4}, "no-store")
    assert await states(site) == {1: "exited", 2: "cancelling", 3: "cancelled", 4: "cancelled", 5: "cancelled"}
    assert [claim.job_id for claim in await site.worker_store.cancelling()] == [running]
    assert (await site.ask("POST", "/api/jobs/cancel?confirm=true")).json == {"cancelled": 1}
    await runner.finish()
    assert (await site.ask("POST", "/api/jobs/cancel?confirm=true")).json == {"cancelled": 0}


@pytest.mark.parametrize(
    ("query", "gone"),
    [
        ("q=ПРИВЕТ", {1}),
        ("label=team:red", {2, 3}),
        ("label=team:red&state=running", set()),
        ("state=waiting", {3}),
        ("state=queued,done", {1, 2, 4}),
        ("state=done", set()),
        ("ending=cancelled", set()),
        ("created_before=2001-01-01T00:00:00Z", set()),
        ("created_after=2001-01-01T00:00:00Z", {1, 2, 3, 4}),
        ("queue=default", {1, 2, 3, 4}),
        ("queue=mail", set()),
    ],
)
async def test_filters(site: Site, query: str, gone: set[int]) -> None:
    """The unfinished jobs that the list has for the same query are cancelled, as many as the 400 before announced."""
    await site.submit(command="echo привет")
    await site.submit(labels={"team": "red"})
    await site.submit(labels={"team": "red"}, start_at="2100-01-01T00:00:00Z")
    await site.submit()
    await site.store.request_cancel((await site.store.add(JobSpec(command="true"))).id)
    assert (await site.ask("POST", f"/api/jobs/cancel?{query}")).json["cancelled"] == len(gone)
    answer = await site.ask("POST", f"/api/jobs/cancel?{query}&confirm=true")
    assert (answer.status, answer.json) == (200, {"cancelled": len(gone)})
    found = await states(site)
    assert {number for number, state in found.items() if state == "cancelled"} == gone | {5}


async def test_jobs_that_are_accepted_meanwhile_stay(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that were accepted after the request are not cancelled, though running ones come last."""
    await site.submit()
    await site.simulated_runner().claim()
    for _ in range(2):
        await site.submit()
    page, loop = selection.page, asyncio.get_running_loop()
    later: list[int] = []

    def page_while_others_submit(*args: Any, **kwargs: Any) -> Any:
        later.append(asyncio.run_coroutine_threadsafe(site.submit(), loop).result())
        return page(*args, **kwargs)

    monkeypatch.setattr(selection, "page", page_while_others_submit)
    assert (await site.ask("POST", "/api/jobs/cancel?confirm=true")).json == {"cancelled": 3}
    found = await states(site)
    assert {found[number] for number in later} == {"queued"}


async def test_bad_parameters(site: Site) -> None:
    """A parameter of pages, or an unknown one, is 400 that names it, and nothing is cancelled."""
    await site.submit()
    for query in (
        "sort=created",
        "fields=job_id",
        "limit=1",
        "cursor=x",
        "nonsense=1",
        "state=finished",
        "confirm=yes",
    ):
        more = "" if "confirm" in query else "&confirm=true"
        answer = await site.ask("POST", f"/api/jobs/cancel?{query}{more}")
        assert (answer.status, answer.json["parameter"]) == (400, query.partition("=")[0]), query
    assert await states(site) == {1: "queued"}


async def test_dependents_count_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a chain, all are done afterwards, and those are counted that were cancelled, not those that were skipped."""
    monkeypatch.setattr(selection, "BATCH_SIZE", 2)
    first = await site.submit()
    for number in range(first, first + 4):
        await site.submit(after=[number])
    answer = await site.ask("POST", "/api/jobs/cancel?confirm=true")
    found = list((await states(site)).values())
    assert set(found) <= {"cancelled", "skipped"}
    assert answer.json == {"cancelled": found.count("cancelled")}


async def test_nothing_starts_in_the_place_of_what_is_cancelled(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running jobs are cancelled after all that have not started, so none of these starts as a place becomes free."""
    monkeypatch.setattr(selection, "BATCH_SIZE", 2)
    jobs = [await site.submit() for _ in range(5)]
    running = await site.submit(priority=5)
    jobs.append(await site.submit())
    assert (await site.simulated_runner().claim()).job_id == running
    changes = site.store.changes
    before = changes.head
    assert (await site.ask("POST", "/api/jobs/cancel?confirm=true")).json == {"cancelled": 7}
    changed = [job_id for _, job_id in changes.since(before, 100) or ()]
    assert sorted(changed[:-1]) == jobs
    assert changed[-1] == running


async def test_it_goes_on_when_the_client_goes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cancellation continues after its client disconnected."""
    monkeypatch.setattr(selection, "BATCH_SIZE", 5)
    for _ in range(30):
        await site.store.add(JobSpec(command="true"))
    cancel_jobs, begun = site.store.cancel_jobs, asyncio.Event()

    async def noticed(*args: object, **more: object) -> object:
        begun.set()
        return await cancel_jobs(*args, **more)  # type: ignore[arg-type]

    site.store.cancel_jobs = noticed  # type: ignore[method-assign,assignment]
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(f"POST /api/jobs/cancel?confirm=true HTTP/1.1\r\nHost: localhost:{site.port}\r\n\r\n".encode())
    await asyncio.wait_for(begun.wait(), 5)
    writer.transport.abort()

    async def all_cancelled() -> bool:
        return set((await states(site)).values()) == {"cancelled"}

    await until(all_cancelled)


async def test_who_may(tmp_path: Path) -> None:
    """It needs `run` and `read`; a token that may change only its own jobs is rejected."""
    tokens: dict[str, dict[str, Any]] = {
        "read": {"scopes": ["read"]},
        "run": {"scopes": ["run"]},
        "both": {"scopes": ["read", "run"]},
        "bound": {"scopes": ["read", "run"], "commands": [{"command": "true"}]},
    }
    auth = {
        "tokens": [{"name": name, "hash": hash_of(name), **more} for name, more in tokens.items()],
        "tokens_file": None,
    }
    async with serving(tmp_path, auth=auth) as site:
        await site.store.add(JobSpec(command="true"))
        for who, expected in (
            ("read", "/problems/insufficient-scope"),
            ("run", "/problems/insufficient-scope"),
            ("bound", "/problems/not-yours"),
        ):
            for query in ("", "?confirm=true"):
                sent = dict([bearer(secret_of(who)).split(": ", 1)])
                answer = await site.ask("POST", f"/api/jobs/cancel{query}", headers=sent)
                assert (answer.status, answer.json["type"]) == (403, expected)
        sent = dict([bearer(secret_of("both")).split(": ", 1)])
        answer = await site.ask("POST", "/api/jobs/cancel?confirm=true", headers=sent)
        assert (answer.status, answer.json) == (200, {"cancelled": 1})


@pytest.mark.heavy
async def test_a_whole_service(service: Service) -> None:
    """Real commands, running and queued, are ended by one request, and none of the queued ones has run."""
    await service.stop()
    await service.start(SUPERVISOR__MAX_RUNNING=2)
    jobs = [await service.submit("sleep 60") for _ in range(6)]
    await service.running(jobs[1])
    answer = await service.ask("POST", "/api/jobs/cancel?confirm=true")
    assert answer[2] == {"cancelled": 6}
    results = [await service.result(job) for job in jobs]
    assert {result["ending"] for result in results} == {"cancelled"}
    assert [result["started"] is not None for result in results] == [True] * 2 + [False] * 4
