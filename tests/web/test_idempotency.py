"""`Idempotency-Key`: a repeated request creates one job, whatever happens in between (S11)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellrunner.web.handlers import idempotency
from shellrunner.web.http.streaming import STREAMS
from tests.support.service import Service
from tests.support.site import Answer, Site, serving
from tests.support.waiting import until

BODY = b'{"command": "true"}'


async def post(site: Site, key: str, body: bytes = BODY, **more: str) -> Answer:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, **more}
    return await site.ask("POST", "/api/jobs", data=body, headers=headers)


async def jobs(site: Site) -> list[int]:
    return [job["job_id"] for job in (await site.get("/api/jobs")).json["jobs"]]


async def test_s11_one_key_in_parallel(site: Site) -> None:
    """S11: fifty equal requests at once are all 202 with the same job, and only one job exists."""
    answers = await asyncio.gather(*(post(site, '"one"') for _ in range(50)))
    assert {answer.status for answer in answers} == {202}
    assert {answer.headers["Location"] for answer in answers} == {"/api/statuses/1"}
    assert {answer.json["job_id"] for answer in answers} == {1}
    assert await jobs(site) == [1]


async def test_other_keys_are_other_jobs(site: Site) -> None:
    """Another key, the key in other case, and no key each create a job of their own."""
    for key in ("a", "b", "A"):
        assert (await post(site, key)).status == 202
    await site.submit()
    assert len(await jobs(site)) == 4


async def test_replay_shows_the_job_as_it_is_now(site: Site) -> None:
    """A replay is 202 with the current state of the job; with `Prefer` it is 200 once the job is done."""
    first = await post(site, "k")
    runner = site.simulated_runner()
    await runner.claim()
    running = await post(site, "k")
    assert (running.status, running.json["state"]) == (202, "running")
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(post(site, "k", Prefer="wait=60"))
        await until(lambda: len(site.app[STREAMS]._timeouts) == 1)
        await runner.finish()
    assert (waiting.result().status, waiting.result().json["result_id"]) == (200, 1)
    done = await post(site, "k")
    assert (done.status, done.json["state"], done.headers["Location"]) == (202, "done", first.headers["Location"])
    at_once = await post(site, "k", Prefer="wait=0")
    assert (at_once.status, at_once.headers["Content-Location"]) == (200, "/api/results/1")
    assert await jobs(site) == [1]


async def test_equal_bodies_may_look_different(site: Site) -> None:
    """Bodies that are equal as JSON are the same: order of keys, whitespace, escapes, 1 and 1.0."""
    first = '{"command": "эхо", "timeout": 1, "env": {"A": "1", "B": "2"}}'
    again = '{\n"env":{"B":"2","A":"1"},"timeout":1.0,"command":"\\u044d\\u0445\\u043e"}'
    for body in (first, again):
        answer = await post(site, "k", body.encode())
        assert (answer.status, answer.json["job_id"]) == (202, 1)


@pytest.mark.parametrize("other", ['{"command": "false"}', '{"command": "true", "priority": 0}'])
async def test_another_body(site: Site, other: str) -> None:
    """The key with another body is 422, and creates no job."""
    await post(site, "k")
    answer = await post(site, "k", other.encode())
    assert (answer.status, answer.json["type"]) == (422, "/problems/key-reused")
    assert await jobs(site) == [1]


async def test_deleted_job(site: Site) -> None:
    """The key of a deleted job is 410, and cannot be used again."""
    await post(site, "k")
    await site.store.request_cancel(1)
    await site.store.delete_job(1)
    for _ in range(2):
        answer = await post(site, "k")
        assert (answer.status, answer.json["type"]) == (410, "/problems/job-gone")
    assert await jobs(site) == []


async def test_refused_requests_leave_no_key(tmp_path: Path) -> None:
    """A key whose request was rejected (422, 400, 415, 503) can be used for the corrected one."""
    async with serving(tmp_path, supervisor={"max_queued": 1}) as site:
        assert (await post(site, "k", b'{"command": 1}')).status == 422
        assert (await post(site, "k", b'{"command": "true", "after": [99]}')).status == 422
        blocker = await site.submit()
        assert (await post(site, "k", b"{")).status == 400
        assert (await post(site, "k", **dict[str, Any]({"Content-Type": "text/plain"}))).status == 415
        assert (await post(site, "k", b'{"command": "full"}')).status == 503
        await site.store.request_cancel(blocker)
        assert (await post(site, "k")).status == 202


async def test_a_full_queue_replays(tmp_path: Path) -> None:
    """While the queue is full (503), a replay is answered with the job that was accepted."""
    async with serving(tmp_path, supervisor={"max_queued": 1}) as site:
        assert (await post(site, "k")).status == 202
        assert (await post(site, "other")).status == 503
        again = await post(site, "k")
        assert (again.status, again.json["job_id"]) == (202, 1)


async def test_replay_when_what_it_waited_for_is_deleted(site: Site) -> None:
    """A replay is answered with the job that was accepted, even if it would be rejected now."""
    first = await site.done()
    body = json.dumps({"command": "true", "after": [first]}).encode()
    assert (await post(site, "k", body)).status == 202
    await site.store.delete_job(first)
    assert (await post(site, "new", body)).status == 422
    again = await post(site, "k", body)
    assert (again.status, again.json["job_id"]) == (202, 2)


async def test_no_key(site: Site) -> None:
    """An invalid key is 400 that names the header, and creates no job."""
    for key in (
        *("", '""', '"', '"a', '"a"b', '"a" "b"', "a b", '"a b"', "ключ", '"a\\b"', '"a";b=1', "a,\tb"),
        *("x" * 256, '"' + "x" * 256 + '"'),
    ):
        got = await site.raw(
            "POST /api/jobs HTTP/1.1\r\nHost: localhost:PORT\r\nConnection: close\r\n"
            "Content-Type: application/json\r\n"
            f"Idempotency-Key: {key}\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY.decode()}"
        )
        assert got.startswith(b"HTTP/1.1 400 "), key
        assert b'"parameter":"Idempotency-Key"' in got
    assert await jobs(site) == []


async def test_two_keys(site: Site) -> None:
    """The header twice is 400, even with the same value."""
    got = await site.raw(
        "POST /api/jobs HTTP/1.1\r\nHost: localhost:PORT\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: a\r\nIdempotency-Key: a\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY.decode()}"
    )
    assert got.startswith(b"HTTP/1.1 400 ")
    assert await jobs(site) == []


@pytest.mark.parametrize(
    ("one", "other"), [('"abc"', "abc"), ('"a\\"b\\\\"', 'a"b\\'), ('"' + "x" * 255 + '"', "x" * 255), ("!~", '"!~"')]
)
async def test_quotes_may_be_left_out(site: Site, one: str, other: str) -> None:
    """A key in quotes, as a string of structured fields, is the same key as without."""
    assert (await post(site, one)).json["job_id"] == (await post(site, other)).json["job_id"]


@given(key=st.text([chr(code) for code in range(0x21, 0x7F)], min_size=1, max_size=255))
def test_every_key_in_quotes_is_itself(key: str) -> None:
    """Any visible ASCII that is quoted as RFC 9651 defines is parsed to the same text."""
    quoted = key.replace("\\", "\\\\").replace('"', '\\"')
    assert idempotency.parse_key(f'"{quoted}"') == key
    assert key.startswith('"') or idempotency.parse_key(key) == key


@pytest.mark.heavy
async def test_restart_and_kill_keep_it(service: Service, tmp_path: Path) -> None:
    """The key still names its job after kill -9, and the command has run once."""
    ledger = tmp_path / "ledger"
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    body = json.dumps({"command": f"echo x >> {ledger}"})

    async def submit() -> int:
        status, _, job = await service.ask("POST", "/api/jobs", data=body, headers=headers)
        assert status == 202
        return int(job["job_id"])

    first = await submit()
    await service.restart()
    assert await submit() == first
    await service.result(first)
    await service.restart()
    assert await submit() == first
    assert ledger.read_text() == "x\n"
