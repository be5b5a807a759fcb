"""Changing a job before it starts, and submitting the same again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.config import QueueSettings
from shellrunner.model import End, Ending, JobSpec
from shellrunner.store import Store
from tests.support.site import Answer, Site, serving
from tests.support.tokens import hash_of

from .test_security import check_problem
from .test_session import bearer

LATER = "2100-01-01T00:00:00.000Z"
PATCH = {"Content-Type": "application/merge-patch+json"}
TOKENS: dict[str, Any] = {
    "tokens": [
        {"name": "ci", "hash": hash_of("ci"), "scopes": ["read", "run"]},
        {"name": "reader", "hash": hash_of("reader"), "scopes": ["read"]},
        {
            "name": "bound",
            "hash": hash_of("bound"),
            "scopes": ["read", "run"],
            "commands": [{"command": "true"}],
        },
    ],
    "tokens_file": None,
}


async def patch(site: Site, job_id: int, token: str | None = None, /, **change: Any) -> Answer:
    headers = PATCH | (bearer(token) if token else {})
    return await site.ask("PATCH", f"/api/jobs/{job_id}", headers=headers, data=json.dumps(change))


async def again(site: Site, job_id: int, token: str | None = None, /, **change: Any) -> Answer:
    more: dict[str, Any] = {"json": change} if change else {}
    return await site.ask("POST", f"/api/jobs/{job_id}/again", headers=bearer(token) if token else {}, **more)


def problem(answer: Answer, status: int, kind: str) -> Any:
    check_problem(answer, status)
    assert answer.json["type"] == f"/problems/{kind}"
    return answer.json


async def test_a_job_is_held_changed_and_released(site: Site) -> None:
    """Held it is not started; each key that is given changes, and is found by lists; released it is started."""
    job_id = await site.submit(labels={"a": "1", "b": "2"}, timeout=5)
    held = await patch(site, job_id, held=True)
    assert (held.status, held.json["held"], held.json["state"]) == (200, True, "waiting")
    runner = site.simulated_runner()
    other = await site.submit()
    assert (await runner.claim()).job_id == other
    changed = await patch(
        site, job_id, priority=7, name="later", labels={"a": None, "c": "3"}, timeout=None, start_at=LATER
    )
    assert changed.json == (await site.get(f"/api/jobs/{job_id}")).json
    assert {key: changed.json[key] for key in ("priority", "name", "labels", "timeout", "start_at", "held")} == {
        "priority": 7, "name": "later", "labels": {"b": "2", "c": "3"}, "timeout": None, "start_at": LATER,
        "held": True,
    }  # fmt: skip
    for query, found in (("label=c:3", [job_id]), ("label=a:1", []), ("name=later", [job_id]), ("q=LATE", [job_id])):
        assert [row["job_id"] for row in (await site.get(f"/api/jobs?{query}")).json["jobs"]] == found
    released = await patch(site, job_id, held=None, start_at=None)
    assert (released.json["held"], released.json["state"]) == (False, "queued")
    await runner.finish()
    claim = await runner.claim()
    assert (claim.job_id, claim.spec.timeout, claim.spec.priority) == (job_id, None, 7)
    problem(await patch(site, job_id, priority=1), 409, "already-started")
    await runner.finish()
    problem(await patch(site, job_id, held=True), 409, "already-done")
    problem(await patch(site, 99, held=True), 404, "no-such-job")


async def test_secrets_are_kept_by_an_edit(site: Site) -> None:
    """Variables and input that were sent with the job are those that it starts with, and none comes back."""
    job_id = await site.submit(env={"SECRET": "geheim"}, stdin="leise", held=True)
    answer = await patch(site, job_id, held=False, priority=1)
    assert b"geheim" not in answer.body
    assert (answer.json["env"], answer.json["stdin"]) == (["SECRET"], {"text": True})
    claim = await site.simulated_runner().claim()
    assert (claim.spec.env, claim.spec.stdin) == ({"SECRET": "geheim"}, "leise")


async def test_a_job_is_moved_to_another_queue(tmp_path: Path) -> None:
    """It counts there from then on, and starts by that queue's limit; a full or unknown queue refuses it."""
    queues = {
        "default": QueueSettings(),
        "off": QueueSettings(max_running=1, max_queued=1),
    }
    async with serving(tmp_path, queues=queues) as site:
        await site.ask("POST", "/api/queues/pause")
        one, two = await site.submit(), await site.submit(held=True)
        assert (await patch(site, one, queue="off")).json["queue"] == "off"
        counts = {
            each["queue"]: (each["queued"], each["waiting"])
            for each in (await site.get("/api/queues")).json["queues"]
        }
        assert counts == {"default": (0, 1), "off": (1, 0)}
        problem(await patch(site, two, queue="off", held=None), 503, "queue-full")
        (error,) = problem(await patch(site, two, queue="none"), 422, "invalid-job")["errors"]
        assert error["pointer"] == "#/queue"
        assert (await site.get(f"/api/jobs/{two}")).json["held"], "nothing of it was done"


async def test_a_job_may_stay_in_a_queue_that_is_gone(site: Site) -> None:
    """A job whose queue config does not name any more is changed, released and moved, but none is moved there."""
    job_id = (await site.store.add(JobSpec(command="true", queue="gone", held=True))).id
    assert (await patch(site, job_id, priority=1, held=False)).json["state"] == "queued"
    assert (await patch(site, job_id, queue=None)).json["queue"] == "default"
    (error,) = problem(await patch(site, job_id, queue="gone"), 422, "invalid-job")["errors"]
    assert error["pointer"] == "#/queue"


async def test_what_a_job_waits_for_is_changed(site: Site) -> None:
    """Prerequisites are added and removed; none may be missing, failed, the job itself, or wait for it."""
    runner = site.simulated_runner()
    one, two = await site.submit(held=True), await site.submit(held=True)
    three = await site.submit(after=[two])
    failed = await site.done(end=End(Ending.EXITED, now_ms(), exit_code=1, started=1, duration=0.1))
    for after, detail in (
        ([99], "there is no job 99"),
        ([failed], f"job {failed} did not exit with 0"),
        ([two], "a job cannot wait for itself"),
        ([one, three], f"job {three} waits for this job"),
    ):
        (error,) = problem(await patch(site, two, after=after), 422, "invalid-job")["errors"]
        assert error == {"pointer": f"#/after/{len(after) - 1}", "detail": detail}
    assert (await patch(site, three, after=[one])).json["after"] == [one]
    assert (await site.get(f"/api/statuses/{three}")).json["pending"]["detail"] == f"it waits for job {one}"
    assert (await patch(site, two, after=[three])).status == 200, "no longer a cycle"
    await patch(site, one, held=False)
    assert (await runner.claim()).job_id == one
    await runner.finish()
    assert (await runner.claim()).job_id == three, "released by the end of what it waits for now"
    await runner.finish()
    assert (await site.get(f"/api/statuses/{two}")).json["pending"]["reason"] == "held"


async def test_a_retry_is_started_now(site: Site) -> None:
    """A job between two attempts counts as not started: `start_at` replaces the delay of its retry."""
    job_id = await site.submit(retries={"max": 1, "delay": 1000})
    runner = site.simulated_runner()
    await runner.claim()
    end = End(Ending.EXITED, now_ms(), exit_code=1, started=1, duration=0.1)
    await runner.finish(end, next_attempt_at=now_ms() + 1_000_000)
    assert (await site.get(f"/api/statuses/{job_id}")).json["pending"]["reason"] == "retry"
    assert (await patch(site, job_id, start_at="2020-01-01T00:00:00Z")).json["state"] == "queued"
    assert (await runner.claim()).attempt == 2


async def test_a_patch_is_json_and_conditional(site: Site) -> None:
    """Both media types are taken, others not; `If-Match` with an old version changes nothing."""
    job_id = await site.submit(held=True)
    path = f"/api/jobs/{job_id}"
    assert (await site.ask("PATCH", path, json={"priority": 1})).json["priority"] == 1
    wrong = await site.ask("PATCH", path, data=b"{}", headers={"Content-Type": "text/plain"})
    problem(wrong, 415, "unsupported-media-type")
    assert wrong.headers["Accept-Patch"] == "application/merge-patch+json"
    tag = (await site.get(path)).headers["ETag"]
    first = await site.ask("PATCH", path, headers={"If-Match": tag}, json={"priority": 2})
    assert (first.status, first.headers["Cache-Control"]) == (200, "no-store")
    problem(
        await site.ask("PATCH", path, headers={"If-Match": tag}, json={"priority": 3}), 412, "precondition-failed"
    )
    assert (await site.get(path)).json["priority"] == 2
    for body in (b"[]", b"null", b'"x"'):
        problem(await site.ask("PATCH", path, headers=PATCH, data=body), 422, "invalid-job")
    problem(await site.ask("PATCH", path, headers=PATCH, data=b"{"), 400, "malformed-json")


async def test_edits_at_the_same_time_all_take_effect(site: Site) -> None:
    """Requests that change different keys of one job do not undo each other."""
    job_id = await site.submit(held=True)
    changes: list[dict[str, Any]] = [{"labels": {f"k{number}": "v"}} for number in range(5)]
    changes += [{"priority": 4}, {"name": "n"}]
    answers = await asyncio.gather(*(patch(site, job_id, **change) for change in changes))
    assert {answer.status for answer in answers} == {200}
    job = (await site.get(f"/api/jobs/{job_id}")).json
    assert (sorted(job["labels"]), job["priority"], job["name"]) == ([f"k{number}" for number in range(5)], 4, "n")


async def test_the_same_again(site: Site) -> None:
    """A new job with the old one's specification and its number; the body replaces keys, and `Prefer` waits."""
    old = await site.done(
        command="echo a",
        name="n",
        priority=2,
        labels={"a": "1"},
        limits={"cpu_seconds": 5},
        start_at="2020-01-01T00:00:00Z",
    )
    answer = await again(site, old)
    assert (answer.status, answer.json["again_of"]) == (202, old)
    assert answer.headers["Location"] == f"/api/statuses/{answer.json['job_id']}"
    before, after = (await site.get(f"/api/jobs/{old}")).json, answer.json
    changed = {key for key in before if before[key] != after[key]}
    changed.discard("host")  # that ran the old one, in a cluster
    assert changed == {"job_id", "status", "created", "state", "done", "result", "again_of", "start_at"}
    other = (await again(site, old, command="echo b", labels={"a": None}, held=True)).json
    assert (other["command"], other["labels"], other["held"], other["name"]) == ("echo b", {}, True, "n")
    problem(await again(site, 99), 404, "no-such-job")
    problem(await again(site, old, commnad="x"), 422, "invalid-job")
    key = {"Idempotency-Key": '"k"'}
    same = [await site.ask("POST", f"/api/jobs/{old}/again", headers=key) for _ in range(2)]
    assert same[0].json["job_id"] == same[1].json["job_id"]
    problem(await site.ask("POST", f"/api/jobs/{other['job_id']}/again", headers=key), 422, "key-reused")


async def test_values_that_are_not_kept_are_asked_for(site: Site) -> None:
    """Without the variables and the input of the old job nothing is run, and all that is missing is named."""
    old = await site.done(env={"PREFIX": "/opt", "B": "2"}, stdin="yes\n")
    errors = problem(await again(site, old, env={"B": "3"}), 422, "invalid-job")["errors"]
    assert [error["pointer"] for error in errors] == ["#/env/PREFIX", "#/stdin"]
    assert len((await site.get("/api/jobs")).json["jobs"]) == 1
    new = await again(site, old, env={"PREFIX": "/usr", "B": None}, stdin="no\n")
    assert new.json["env"] == ["PREFIX"]
    claim = await site.simulated_runner().claim()
    assert (claim.spec.env, claim.spec.stdin) == ({"PREFIX": "/usr"}, "no\n")


async def test_who_may_change_and_repeat(tmp_path: Path) -> None:
    """A token that only reads may not; one with rules only its own jobs, and only what its rules allow."""
    async with serving(tmp_path, auth=TOKENS) as site:
        job = {"command": "true", "held": True}
        numbers = {}
        for who in ("ci", "bound"):
            answer = await site.ask("POST", "/api/jobs", headers=bearer(who), json=job)
            numbers[who] = answer.json["job_id"]
        for act in (patch, again):
            problem(await act(site, numbers["ci"], "reader"), 403, "insufficient-scope")
            problem(await act(site, numbers["ci"], "bound"), 403, "not-yours")
            assert (await act(site, numbers["bound"], "bound")).status < 300
            assert (await act(site, numbers["bound"], "ci")).status < 300
        problem(await again(site, numbers["bound"], "bound", command="id"), 403, "command-not-allowed")
        problem(await again(site, numbers["bound"], "bound", env={"BASH_ENV": "x"}), 403, "command-not-allowed")


async def test_the_same_again_runs_as_the_same_user(tmp_path: Path) -> None:
    """A command of a token with `run_as` stays that user's when another token, which has none, repeats it."""
    tokens = [*TOKENS["tokens"], {"name": "bob", "hash": hash_of("bob"), "scopes": ["run"], "run_as": "nobody"}]
    async with serving(tmp_path, auth=TOKENS | {"tokens": tokens}) as site:
        job = await site.ask("POST", "/api/jobs", headers=bearer("bob"), json={"command": "./build"})
        repeated = (await again(site, job.json["job_id"], "ci")).json
        assert (repeated["submitter"], repeated["run_as"]) == ("token:ci", "nobody")
        assert [line["run_as"] for event, line in site.audit.lines if event == "accepted"] == ["nobody", "nobody"]
        own = (await again(site, repeated["job_id"], "ci", argv=["id"])).json
        assert own["run_as"] == "nobody", "nor by way of the second one"
        problem(await again(site, repeated["job_id"], "bob"), 404, "no-such-job")


@pytest.mark.parametrize("change", [{"priority": 5}, {"held": False, "labels": {"a": "b"}, "after": []}])
async def test_the_audit_log_says_what_was_changed(site: Site, change: dict[str, Any]) -> None:
    """One line before the change names the job and the keys with their values, without any secret."""
    job_id = await site.submit(held=True, env={"A": "geheim"})
    await patch(site, job_id, **change)
    (line,) = [details for event, details in site.audit.lines if event == "accepted" and details["verb"] == "PATCH"]
    assert line["job"] == job_id
    assert set(line["changed"]) == {key for key in change if key != "after"}
    assert "geheim" not in repr(line)


async def test_the_audit_log_says_what_is_changed_in_the_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit that would change nothing, until another one comes first, has a line about what it changes then."""
    job_id, others = await site.submit(held=True), [7]
    edit = type(site.store).edit_job

    async def edit_after_others(store: Store, change: Any) -> Any:
        if others:
            await patch(site, job_id, priority=others.pop())
        return await edit(store, change)

    monkeypatch.setattr(type(site.store), "edit_job", edit_after_others)
    assert (await patch(site, job_id, priority=0)).json["priority"] == 0
    lines = [line["changed"] for event, line in site.audit.lines if event == "accepted" and line["verb"] == "PATCH"]
    assert lines == [[], ["priority"], ["priority"]]
