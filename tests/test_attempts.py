"""Attempts over HTTP: one stream of all their output, their results, and a real service that makes them."""

import asyncio
import random
import re
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.keeper.slot import DATA_CAPACITY
from shellrunner.model import End, Ending, Stream
from shellrunner.store import Output
from tests.support.service import Service
from tests.support.site import SimulatedRunner, Site, serving
from tests.support.waiting import until

DONE_KEYS = ("ending", "exit_code", "signal", "duration", "completed")
Written = list[dict[str, bytes]]  # by attempt and stream
NEVER = 10**17  # when the next attempt is due
RUSSIAN = "попытка ".encode()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Yield a running app over a real history."""
    async with serving(tmp_path) as running:
        yield running


def failed(code: int = 1) -> Any:
    """Return an end that is followed by another attempt."""
    return End(Ending.EXITED, now_ms(), code, started=now_ms(), duration=0.25)


async def submit(site: Site, **more: Any) -> Any:
    """Return a job that is tried again."""
    return await site.submit(retries={"max": 9}, **more)


async def attempt(runner: Any, *writes: Any, then: Any = None, code: int = 1) -> Any:
    """Have the next attempt write this and end; `then` is when another is due."""
    claim = await runner.claim()
    for stdout, stderr in writes:
        runner.write(stdout, stderr)
    await runner.finish(failed(code), next_attempt_at=then)
    return claim


def text_of(events: Any, name: Any) -> Any:
    """Return the text of one stream."""
    return "".join(event.data["text"] for event in events if event.name == name)


def raw(events: Any, name: Any) -> Any:
    """Return the bytes of one stream."""
    return b"".join(b64decode(event.data["base64"]) for event in events if event.name == name)


async def test_one_stream_has_all_attempts_and_done_only_after_the_last(site: Site) -> None:
    """A follower has every status, all output under ids that go on, each attempt's end, and `done` once, at last."""
    job_id, runner = await submit(site), site.simulated_runner()
    async with asyncio.timeout(10), site.events(job_id) as (_, events):
        rest = asyncio.create_task(_all(events))
        await attempt(runner, (b"one\n", b"first"), then=now_ms() + 200)
        await attempt(runner, (b"two\n", b""), then=0)
        await attempt(runner, (b"three\n", b""), code=0)
        seen = await rest
    assert text_of(seen, "stdout") == "one\ntwo\nthree\n"
    assert text_of(seen, "stderr") == "first"
    ids = [event.id for event in seen if event.id]
    assert ids == ["4", "9", "9-1", "13", "13-2", "19", "end"]
    ends = [event.data for event in seen if event.name == "attempt"]
    assert [(end["attempt"], end["max_attempts"], end["result"]) for end in ends] == [
        (number, 10, f"/api/results/{job_id}/attempts/{number}") for number in (1, 2)
    ]
    result = (await site.get(ends[0]["result"])).json
    assert {key: result[key] for key in DONE_KEYS} == {key: ends[0][key] for key in DONE_KEYS}
    assert [event.name for event in seen].index("done") == len(seen) - 1
    assert (seen[-1].data["ending"], seen[-1].data["exit_code"]) == ("exited", 0)
    statuses = [event.data for event in seen if event.name == "status"]
    assert [status["attempt"] for status in statuses] == sorted(status["attempt"] for status in statuses)
    assert {"attempt": 2, "state": "waiting", "done": False}.items() <= next(
        status for status in statuses if status["state"] == "waiting"
    ).items()


async def _all(events: Any) -> list[Any]:
    return [event async for event in events]


async def test_an_attempt_leaves_no_character_to_the_next(site: Site) -> None:
    """A character that the end of an attempt cut comes as U+FFFD before that end, wherever a reader resumes."""
    job_id, runner = await submit(site), site.simulated_runner()
    letter = "ж".encode()
    await attempt(runner, (b"a" + letter[:1], b"e" + letter[:1]), then=0)
    await attempt(runner, (letter[1:] + b"b", b""))
    everything = [(event.name, event.id) for event in await site.replay(job_id)]
    assert everything == [
        ("status", None), ("stdout", "2.1.0"), ("stderr", "4.1.1"), ("stdout", "4.0.1"), ("stderr", "4"),
        ("attempt", "4-1"), ("stdout", "6"), ("done", "end"),
    ]  # fmt: skip
    for number, (_, event_id) in enumerate(everything[1:-1], start=2):
        rest = await site.replay(job_id, last_event_id=event_id)
        assert [(event.name, event.id) for event in rest[1:]] == everything[number:]
    rest = await site.replay(job_id, last_event_id="4.1.1")
    assert [(event.name, event.data["text"]) for event in rest[1:3]] == [("stdout", "\ufffd"), ("stderr", "\ufffd")]


async def test_e1_resuming_from_any_event_of_any_attempt_gives_exactly_the_rest(site: Site) -> None:
    """E1: cut after any event, while attempts run, wait or are over, a reader has every byte and every end once."""
    chance = random.Random(5)
    job_id, runner = await submit(site), site.simulated_runner()
    written: Written = []
    places: set[str] = set()
    for number in range(1, 8):
        written.append({"stdout": b"", "stderr": b""})
        await runner.claim()
        for _ in range(0 if number in (1, 4, 5) else chance.randrange(1, 9)):
            name, text = (
                chance.choice(("stderr", "stdout")),
                "съешь ещё этих мягких французских булок 🥐 " * chance.randrange(1, 9),
            )
            data = text.encode()[chance.randrange(4) : -1 - chance.randrange(5)]
            runner.write(**{name: data})
            written[-1][name] += data
        if number == 3:
            data = "я".encode() * DATA_CAPACITY
            runner.write(stdout=data)
            written[-1]["stdout"] += data
        places |= {cut async for cut in _ids(site, job_id, _size(written))}
        await runner.finish(failed(), next_attempt_at=0 if number < 7 else None)
    everything, output = await site.replay(job_id), await site.store.output(job_id)
    places |= {event.id for event in everything if event.id and event.id != "end"}
    assert _by_attempt(everything) == await _expected(written, "0", output)
    assert {"0-1", f"{_size(written[:3])}-3", f"{_size(written[:3])}-5"} < places
    assert len(places) > 20
    for cut in sorted(places):
        assert _by_attempt(await site.replay(job_id, last_event_id=cut)) == await _expected(written, cut, output)


def _by_attempt(events: Any) -> list[tuple[str, str, int | None]]:
    """Return for each attempt its text by stream, and its number as its end gives it, if that comes."""
    found: list[list[Any]] = [[]]
    numbers = [event.data["attempt"] for event in events if event.name == "attempt"]
    for event in events:
        found[-1].append(event)
        if event.name == "attempt":
            found.append([])
    return [
        (text_of(each, "stdout"), text_of(each, "stderr"), number)
        for each, number in zip(found, [*numbers, None], strict=True)
    ]


async def _expected(written: Written, cut: str, output: Output) -> list[tuple[str, str, int | None]]:
    """Return what a reader still has to get that was cut after the event with this id."""
    place, _, ended = cut.partition("-")
    position, *held = (int(part) for part in place.split("."))
    ends = [_size(written[:number]) for number in range(1, len(written))]
    first = max(int(ended or 0), sum(end < position for end in ends))
    rest = [dict(attempt) for attempt in written[first:]]
    for name, kept in zip(("stdout", "stderr"), held or (0, 0), strict=True):
        offset = await output.offset_of(Stream(name), position)
        assert offset is not None
        offset -= sum(len(each[name]) for each in written[:first])
        rest[0][name] = rest[0][name][offset - kept :]
    numbers = [*range(first + 1, len(written)), None]
    return [
        (each["stdout"].decode("utf-8", "replace"), each["stderr"].decode("utf-8", "replace"), number)
        for each, number in zip(rest, numbers, strict=True)
    ]


def _size(written: Written) -> int:
    return sum(len(data) for attempt in written for data in attempt.values())


async def _ids(site: Site, job_id: Any, size: int) -> AsyncIterator[str]:
    """Yield the ids of all events up to the end of the output that there is by now."""
    if size == 0:
        return
    async with site.events(job_id) as (_, events):
        async for event in events:
            if event.id and event.id != "end":
                yield event.id
                if int(re.split(r"[.-]", event.id)[0]) == size:
                    return


async def test_a_restart_between_attempts_changes_nothing(tmp_path: Path) -> None:
    """A reader that was cut while the job waited resumes in the next process at the next attempt's first byte."""
    async with serving(tmp_path) as site:
        job_id = await submit(site)
        await attempt(site.simulated_runner(), (b"one", b"err"), then=now_ms() + 500)
        first = (await site.get(f"/api/statuses/{job_id}/output")).body
        assert (first, (await site.get(f"/api/statuses/{job_id}")).json["state"]) == (b"oneerr", "waiting")
    async with serving(tmp_path) as site:
        assert (await site.get(f"/api/statuses/{job_id}/output?tail=1")).body == first
        async with asyncio.timeout(10), site.events(job_id, last_event_id="6") as (_, events):
            assert (await anext(events)).data["attempt"] == 2
            runner = SimulatedRunner(site.worker_store, tmp_path, 7)
            site.runners.append(runner)
            await attempt(runner, (b"two", b""), code=0)
            rest = await _all(events)
        assert [(event.id, event.data["text"]) for event in rest if event.name == "stdout"] == [("9", "two")]
        assert raw(await site.replay(job_id, "?encoding=base64"), "stdout") == b"onetwo"


async def test_plain_output_follows_through_all_attempts(site: Site) -> None:
    """`follow=true` gives the bytes of each attempt as they come, and ends with the job, not with an attempt."""
    job_id, runner = await submit(site), site.simulated_runner()
    url = f"http://127.0.0.1:{site.port}/api/statuses/{job_id}/output?follow=true&stream=stdout"
    async with asyncio.timeout(10), site.session.get(url) as response:
        for line in (b"one\n", b"two\n", b"three\n"):
            await attempt(runner, (line, b"not this"), then=0)
            assert await response.content.readline() == line
        await attempt(runner, (b"four\n", b""))
        assert await response.content.read() == b"four\n"
    lines = (await site.get(f"/api/statuses/{job_id}/output?tail=2")).body
    assert lines == b"not thisthree\nnot thisfour\n"


async def test_each_attempt_is_a_result_and_the_last_one_is_the_jobs(site: Site) -> None:
    """Attempts are read while the next one waits; afterwards the result is the last one's, and names them all."""
    job_id, runner = await submit(site), site.simulated_runner()
    links = [f"/api/results/{job_id}/attempts/{number}" for number in (1, 2)]
    assert await _problem(site, links[0]) == (404, "no-result-yet")
    await attempt(runner, (RUSSIAN + b"1", b"no"), then=NEVER, code=7)
    first = (await site.get(links[0])).json
    assert (first["attempt"], first["attempts"]) == (1, links[:1])
    assert (first["stdout"], first["stderr"], first["exit_code"], first["stdout_bytes"]) == ("попытка 1", "no", 7, 16)
    assert await _problem(site, f"/api/results/{job_id}") == (404, "no-result-yet")
    assert await _problem(site, links[1]) == (404, "no-result-yet")
    assert await _problem(site, f"{links[1]}/stdout") == (404, "no-result-yet")
    assert await _problem(site, f"/api/results/{job_id}/attempts/3") == (404, "no-such-attempt")
    assert await _problem(site, f"/api/results/{job_id}/attempts/0") == (404, "not-found")
    await site.ask("POST", f"/api/jobs/{job_id}/cancel")
    result = (await site.get(f"/api/results/{job_id}")).json
    assert (result["ending"], result["attempt"], result["attempts"], result["stdout"]) == ("cancelled", 2, links, "")
    assert (await site.get(links[1])).json == result
    assert (await site.get(links[0])).json == {**first, "attempts": links}
    assert [each["attempt"] for each in (await site.get("/api/results")).json["results"]] == [2]


async def test_the_raw_routes_of_attempts(site: Site) -> None:
    """Each attempt's bytes have their own ETag and ranges; those of the result are the last attempt's."""
    job_id, runner = await submit(site), site.simulated_runner()
    await attempt(runner, (b"0123456789", b""), then=0)
    await attempt(runner, (b"last", b"!"))
    one, two = (f"/api/results/{job_id}/attempts/{number}/stdout" for number in (1, 2))
    answers = [await site.get(path) for path in (one, two, f"/api/results/{job_id}/stdout")]
    assert [answer.body for answer in answers] == [b"0123456789", b"last", b"last"]
    assert (await site.get(f"/api/results/{job_id}")).json["stdout"] == "last"
    assert answers[0].headers["ETag"] != answers[1].headers["ETag"] == answers[2].headers["ETag"]
    part = await site.get(one, headers={"Range": "bytes=8-", "If-Range": answers[0].headers["ETag"]})
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"89", "bytes 8-9/10")
    assert (await site.get(one, headers={"If-None-Match": answers[0].headers["ETag"]})).status == 304
    assert (await site.get(one.replace("stdout", "stderr"))).body == b""
    assert (await site.ask("DELETE", f"/api/results/{job_id}")).status == 204
    for path in (one, two, one.removesuffix("/stdout")):
        assert await _problem(site, path) == (410, "result-gone")


async def _problem(site: Site, path: Any) -> tuple[Any, ...]:
    answer = await site.get(path)
    return answer.status, answer.json["type"].removeprefix("/problems/")


@pytest.mark.heavy
async def test_a_real_job_is_tried_until_it_succeeds(service: Service, tmp_path: Path) -> None:
    """Killed while it waits, the service makes the next attempts: each once, all output in one stream, true ends."""
    count = f"echo x >> {tmp_path}/tries; n=$(wc -l < {tmp_path}/tries); echo попытка $n; echo ! >&2; [ $n = 3 ]"
    job = await service.submit(count, retries={"max": 5, "delay": 0.5})

    async def waits() -> Any:
        status = await service.status(job)
        return status["state"] == "waiting" and status["attempt"] == 2

    await until(waits, what="the second attempt waits")
    await service.restart()
    result = await service.result(job)
    assert (result["exit_code"], result["attempt"], result["stdout"]) == (0, 3, "попытка 3\n")
    assert result["attempts"] == [f"/api/results/{job}/attempts/{number}" for number in (1, 2, 3)]
    _, _, output = await service.get(f"/api/statuses/{job}/output?stream=stdout")
    assert output.decode() == "попытка 1\nпопытка 2\nпопытка 3\n"
    codes = [(await service.get(link))[2]["exit_code"] for link in result["attempts"]]
    assert codes == [1, 1, 0]
    assert (tmp_path / "tries").read_text() == "x\n" * 3


@pytest.mark.heavy
async def test_a_large_real_attempt_lies_in_files_of_its_own(service: Service) -> None:
    """Attempts that overflow their slots keep their bytes apart, and together they are one output."""
    job = await service.submit("head -c 200000 /dev/zero | tr '\\0' $SHELLRUNNER_JOB_ID; exit 1", retries={"max": 2})
    result = await service.result(job)
    assert (result["attempt"], result["stdout_bytes"]) == (3, 200_000)
    _, headers, output = await service.get(f"/api/statuses/{job}/output")
    assert (headers["Content-Length"], output) == ("600000", b"1" * 600_000)
