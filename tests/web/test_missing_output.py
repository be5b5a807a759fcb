"""Output whose file was cut, lost or damaged, in every answer: true bytes, honest lengths, and what is missing."""

import os
import re
from base64 import b64decode
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from shellrunner.clock import now_ms
from shellrunner.keeper.slot import ENTRY_SIZE, INDEX_CAPACITY
from tests.support.site import SimulatedRunner, Site
from tests.support.sse import Event

# Some 670 of them fill the space for data of a slot, and 512 that of its index: the rest is in the files.
LINES = [b"%05d %b\n" % (number, bytes([97 + number % 26]) * 90) for number in range(1000)]
OUT, ERR = (b"".join(LINES[first::2]) for first in (0, 1))
ALL = b"".join(LINES)


def write(runner: SimulatedRunner, first: int, last: int) -> None:
    """Write lines to both streams in turn."""
    for number in range(first, last):
        runner.write(LINES[number] if number % 2 == 0 else b"", b"" if number % 2 == 0 else LINES[number])


def the(state: Path, kind: str) -> Path:
    """Return the one file of this kind that was written last."""
    return max((state / "runs").glob(f"*.{kind}"), key=lambda path: path.stat().st_mtime_ns)


def removed(state: Path) -> None:
    the(state, "out").unlink()


def cut(state: Path) -> None:
    os.truncate(the(state, "out"), 6_000)


def emptied(state: Path) -> None:
    os.truncate(the(state, "out"), 0)


def index_removed(state: Path) -> None:
    the(state, "idx").unlink()


def index_cut(state: Path) -> None:
    os.truncate(the(state, "idx"), 10 * ENTRY_SIZE + 5)


def index_damaged(state: Path) -> None:
    path = the(state, "idx")
    content = bytearray(path.read_bytes())
    content[20 * ENTRY_SIZE : 23 * ENTRY_SIZE] = b"\xa5" * (3 * ENTRY_SIZE)
    path.write_bytes(content)


DAMAGES: list[Callable[[Path], None]] = [removed, cut, emptied, index_removed, index_cut, index_damaged]


def is_part(part: bytes, whole: bytes) -> bool:
    """Return whether the lines of `part`, of which some may be cut, are a subsequence of those of `whole`."""
    at = 0
    for byte in part:
        at = whole.find(byte, at) + 1
        if at == 0:
            return False
    return True


def text_of(events: Sequence[Event], stream: str) -> str:
    """Return the text of all events of one stream."""
    return "".join(event.data["text"] for event in events if event.name == stream)


async def check_events(site: Site, job_id: int, start: int = 0) -> int:
    """Check that events are true, at their positions, and count what is missing; return that."""
    events = await site.replay(job_id, f"?encoding=base64&last_event_id={start}")
    position, counted, delivered = start, 0, 0
    for event in events:
        if event.name in ("stdout", "stderr"):
            data = b64decode(event.data["base64"])
            assert event.id is not None
            assert ALL[position : int(event.id)] == data
            position, delivered = int(event.id), delivered + len(data)
        elif event.name == "dropped" and event.id is not None:
            position = int(event.id)
    dropped = {event.data["stream"]: event.data["bytes"] for event in events if event.name == "dropped"}
    assert all(event.data["missing"] <= event.data["bytes"] for event in events if event.name == "dropped")
    counted = sum(dropped.values())
    assert events[-1].name == "done"
    if start == 0:
        assert delivered + counted == len(ALL)
    return counted


async def check_raw(site: Site, path: str, stored: int, whole: bytes) -> bytes:
    """Check the route of exact bytes: its length, HEAD, ranges and entity tag agree."""
    answer, head = await site.get(path), await site.ask("HEAD", path)
    assert answer.status == head.status == 200
    assert answer.headers["Content-Length"] == head.headers["Content-Length"] == str(len(answer.body)) == str(stored)
    assert answer.headers["ETag"] == head.headers["ETag"]
    assert is_part(answer.body, whole)
    for first, last in ((0, 99), (stored // 2, stored // 2 + 70_000), (stored - 10, stored + 10)):
        if 0 <= first < stored:
            part = await site.get(
                path, headers={"Range": f"bytes={first}-{last}", "If-Range": answer.headers["ETag"]}
            )
            assert part.status == 206
            assert part.body == answer.body[first : last + 1]
            assert part.headers["Content-Range"].endswith(f"/{stored}")
    beyond = await site.get(path, headers={"Range": f"bytes={stored}-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{stored}")
    assert (await site.get(path, headers={"If-None-Match": answer.headers["ETag"]})).status == 304
    return answer.body


async def check_search(site: Site, job_id: int, stream: str, body: bytes) -> None:
    """Check that a search finds what is there, at its places, lines and events, and that lines are where they are."""
    path = f"/api/statuses/{job_id}/output"
    found = (await site.get(f"{path}?find=aaa%0A&limit=1000{stream}")).json
    assert (found["size"], found["next"]) == (len(body), None)
    matches = found["matches"]
    assert [match["position"] for match in matches] == [at.start() for at in re.finditer(b"aaa\n", body)]
    assert [match["line"] for match in matches] == [body.count(b"\n", 0, at["position"]) + 1 for at in matches]
    for match in matches[:: max(1, len(matches) // 2)] if not stream else ():
        at = int(match["event_id"])
        assert ALL[at : at + 4] == b"aaa\n"
        assert body[match["position"] :].startswith(ALL[at : at + 4])
    lines = body.splitlines(keepends=True)
    for number in (1, len(lines) // 2, len(lines)):
        answer = (await site.get(f"{path}/line?number={number}{stream}")).json
        assert (answer["lines"], answer["position"]) == (len(lines), len(b"".join(lines[: number - 1])))


async def check_done(site: Site, job_id: int, result: str, *, alone: bool = True) -> int:
    """Check all answers about an attempt that has ended; return how much is missing."""
    document = (await site.get(result)).json
    assert document["truncated"] is True
    missing = document["stdout_dropped"] + document["stderr_dropped"]
    assert missing > 0
    for stream, whole in (("stdout", OUT), ("stderr", ERR)):
        stored, dropped = document[f"{stream}_bytes"], document[f"{stream}_dropped"]
        assert stored + dropped == len(whole)
        body = await check_raw(site, f"{result}/{stream}", stored, whole)
        assert document[stream].encode() == body
    if alone:
        assert await check_events(site, job_id) == missing
        await check_events(site, job_id, 70_000)
        for stream, whole in (("", ALL), ("&stream=stdout", OUT), ("&stream=stderr", ERR)):
            text = await site.get(f"/api/statuses/{job_id}/output?follow=false{stream}")
            assert text.headers["Content-Length"] == str(len(text.body))
            assert is_part(text.body, whole)
            head = await site.ask("HEAD", f"/api/statuses/{job_id}/output?from=100{stream}")
            assert head.headers["Content-Length"] == str(len(text.body) - 100)
            followed = await site.get(f"/api/statuses/{job_id}/output?follow=true&from=1000{stream}")
            assert followed.body == text.body[1000:]
            tail = await site.get(f"/api/statuses/{job_id}/output?tail=3{stream}")
            assert text.body.endswith(tail.body)
            await check_search(site, job_id, stream, text.body)
        (row,) = (await site.get("/api/results")).json["results"]
        assert row["truncated"] is True
    return int(missing)


@pytest.mark.heavy
@pytest.mark.sqlite(reason="in a cluster output of what has ended is in the database")
@pytest.mark.parametrize("damage", DAMAGES)
async def test_c6_after_the_end_what_is_missing_is_counted(site: Site, damage: Callable[[Path], None]) -> None:
    """C6: damage after the end is in the result, the bytes, the events and the text, and changes the entity tag."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    write(runner, 0, len(LINES))
    await runner.finish()
    path = f"/api/results/{job_id}"
    whole = await site.get(f"{path}/stdout")
    assert whole.body == OUT
    before = (await site.get(path)).json
    assert (before["truncated"], before["stdout_dropped"]) == (False, 0)
    damage(site.state_dir)
    await check_done(site, job_id, path)
    tag = whole.headers["ETag"]
    assert (await site.get(f"{path}/stdout", headers={"If-None-Match": tag})).status == 200
    rest = await site.get(f"{path}/stdout", headers={"Range": "bytes=100-", "If-Range": tag})
    assert rest.status == 200  # another version: all of it


@pytest.mark.heavy
@pytest.mark.sqlite(reason="another node learns of a gap when there is output behind it, or the end")
@pytest.mark.parametrize("damage", DAMAGES)
async def test_c6_while_it_runs_followers_learn_of_it_and_go_on(site: Site, damage: Callable[[Path], None]) -> None:
    """C6: damage under a running job is passed over, and the end counts all that is not there."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    write(runner, 0, 800)
    damage(site.state_dir)
    async with site.events(job_id, "?encoding=base64") as (_, events):
        seen = []
        async for event in events:
            seen.append(event)
            if event.name == "dropped":
                break
        text = await site.get(f"/api/statuses/{job_id}/output")
        assert text.headers["Content-Length"] == str(len(text.body))
        assert is_part(text.body, ALL)
        found = (await site.get(f"/api/statuses/{job_id}/output?find=aaa%0A&limit=1000")).json
        assert found["size"] in (len(text.body), len(b"".join(LINES[:800])))  # the index is not searched
        write(runner, 800, len(LINES))
        await runner.finish()
        seen += [event async for event in events]
    assert seen[-1].name == "done"
    position = 0
    for event in seen:
        if event.name in ("stdout", "stderr"):
            assert ALL[position : int(event.id or 0)] == b64decode(event.data["base64"])
        if event.name in ("stdout", "stderr", "dropped") and event.id is not None:
            position = int(event.id)
    await check_done(site, job_id, f"/api/results/{job_id}")


@pytest.mark.heavy
@pytest.mark.sqlite(reason="in a cluster output of what has ended is in the database")
@pytest.mark.parametrize("damage", DAMAGES)
async def test_c6_an_attempt_that_is_damaged_says_so(site: Site, damage: Callable[[Path], None]) -> None:
    """C6: the same for an earlier attempt; the next one is whole, and followers of all get through."""
    job_id = await site.submit(retries={"max": 1, "delay": 1})
    runner = site.simulated_runner()
    await runner.claim()
    write(runner, 0, len(LINES))
    await runner.finish(next_attempt_at=now_ms())
    damage(site.state_dir)
    await runner.claim()
    runner.write(b"second\n")
    await runner.finish()
    missing = await check_done(site, job_id, f"/api/results/{job_id}/attempts/1", alone=False)
    second = (await site.get(f"/api/results/{job_id}")).json
    assert (second["truncated"], second["stdout"]) == (False, "second\n")
    events = await site.replay(job_id, "?encoding=base64")
    data = b"".join(b64decode(event.data["base64"]) for event in events if "base64" in event.data)
    assert data.endswith(b"second\n")
    assert [event.id for event in events if event.name == "attempt"] == [f"{len(ALL)}-1"]
    for event_id, names in ((str(len(ALL)), ["attempt", "stdout"]), (f"{len(ALL)}-1", ["stdout"])):
        rest = await site.replay(job_id, Last_Event_ID=event_id)
        assert [event.name for event in rest if event.name in ("attempt", "stdout", "stderr")] == names
    assert len(data) + missing == len(ALL) + len(b"second\n")
    dropped = {event.data["stream"]: event.data["bytes"] for event in events if event.name == "dropped"}
    assert sum(dropped.values()) == missing
    text = await site.get(f"/api/statuses/{job_id}/output")
    assert text.body == data
    for stream in ("stdout", "stderr"):
        one = await site.get(f"/api/statuses/{job_id}/output?stream={stream}")
        assert is_part(one.body, data)


@pytest.mark.sqlite(reason="in a cluster output of what has ended is in the database")
async def test_c6_a_follower_whose_character_is_cut_off_by_a_gap_goes_on(site: Site) -> None:
    """C6: it holds back the beginning of the character, and resumes before the gap and within it."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    write(runner, 0, 600)
    runner.write("и".encode()[:1], LINES[601])
    runner.write("и".encode()[1:], LINES[603])
    write(runner, 604, 700)
    await runner.finish()
    path = the(site.state_dir, "idx")
    with path.open("r+b") as file:  # the entry of line 603, so what is missing begins with that of line 601
        file.seek((603 - INDEX_CAPACITY) * ENTRY_SIZE)
        file.write(b"\xa5" * ENTRY_SIZE)
    begin = len(b"".join(LINES[:600])) + 1
    behind = b"".join(LINES[606:700:2]).decode()
    missing = {"stdout": 1 + len(LINES[604]), "stderr": 2 * len(LINES[0])}
    whole = await site.replay(job_id)
    assert text_of(whole, "stdout") == b"".join(LINES[:600:2]).decode() + "\ufffd" + behind
    for event_id, expected in ((f"{begin}.1.0", "\ufffd" + behind), (f"{begin + 50}.1.0", behind)):
        events = await site.replay(job_id, Last_Event_ID=event_id)
        assert text_of(events, "stdout") == expected
        assert events[-1].name == "done"
        assert {event.data["stream"]: event.data["bytes"] for event in events if event.name == "dropped"} == missing
