"""The live stream over HTTP: replay, live, resume, the end, slow readers, shutdown."""

import asyncio
import json
import random
import socket
from base64 import b64decode
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.model import End, Ending
from shellrunner.store import Output, Subscription, notifications
from shellrunner.store.output import Extent, index
from shellrunner.store.output.index import IndexedOutput
from shellrunner.web.feeds.job_feed import FRAME_SIZE, JOB_FEEDS
from shellrunner.web.feeds.shared_read import INTERVAL
from shellrunner.web.http.connections import CONNECTIONS, ConnectionLimits
from shellrunner.web.http.streaming import STREAMS, ResponseStream
from shellrunner.wire import sse
from shellrunner.wire.json_codec import encode
from shellrunner.wire.sse import StreamCursor
from tests.support.site import Site, serving
from tests.support.sse import Event
from tests.support.waiting import until


def text(events: list[Event], name: str) -> str:
    return "".join(event.data["text"] for event in events if event.name == name)


async def test_replay(site: Site) -> None:
    """The stream of a done job is its status, its output in arrival order, and `done` with the id `end`."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    runner.write(b"one\n", b"two\n")
    runner.write("три".encode())
    await runner.finish(End(Ending.EXITED, now_ms(), 3, started=now_ms(), duration=0.5))
    events = await site.replay(job_id)
    assert [(event.name, event.id) for event in events] == [
        ("status", None),
        ("stdout", "4"),
        ("stderr", "8"),
        ("stdout", "14"),
        ("done", "end"),
    ]
    assert events[0].data == (await site.get(f"/api/statuses/{job_id}")).json
    assert text(events, "stdout") == "one\nтри"
    assert events[-1].data["exit_code"] == 3
    assert set(events[-1].data) == {"result", "ending", "exit_code", "signal", "duration", "completed"}


async def test_head_of_the_stream(site: Site) -> None:
    """The stream is text/event-stream, must not be stored or buffered, and begins with `retry: 2000`."""
    job_id = await site.done(b"x")
    async with site.events(job_id) as (response, _):
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert (await response.content.readline()) == b"retry: 2000\n"
    head = await site.ask("HEAD", f"/api/statuses/{job_id}/events")
    assert (head.status, head.body, head.headers["Content-Type"]) == (200, b"", "text/event-stream")


async def test_live(site: Site) -> None:
    """A follower gets the start, output, a cancel and the end as they happen."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    async with asyncio.timeout(10), site.events(job_id) as (_, events):
        assert (await anext(events)).data["state"] == "queued"
        await runner.claim()
        assert (await anext(events)).data["state"] == "running"
        runner.write(b"hello")
        event = await anext(events)
        assert (event.name, event.data["text"], event.id) == ("stdout", "hello", "5")
        await site.ask("POST", f"/api/jobs/{job_id}/cancel")
        assert (await anext(events)).data["cancelling"] is True
        runner.write(stderr=b"bye")
        await runner.finish(End(Ending.CANCELLED, now_ms(), signal="SIGTERM", started=now_ms(), duration=1.0))
        rest = [event async for event in events]
    assert [event.name for event in rest] in (["stderr", "status", "done"], ["status", "stderr", "done"])
    assert rest[-1].data["ending"] == "cancelled"


async def test_the_end_and_after(site: Site) -> None:
    """E3: after `done` a client gets 204; one disconnected before, `status` and `done`; `end` too early is 400."""
    job_id = await site.submit()
    early = await site.get(f"/api/statuses/{job_id}/events", headers={"Last-Event-ID": "end"})
    assert early.status == 400
    runner = site.simulated_runner()
    await runner.claim()
    runner.write(b"x")
    await runner.finish()
    assert (await site.get(f"/api/statuses/{job_id}/events", headers={"Last-Event-ID": "end"})).status == 204
    assert (await site.get(f"/api/statuses/{job_id}/events?last_event_id=end")).status == 204
    assert [event.name for event in await site.replay(job_id, Last_Event_ID="1")] == ["status", "done"]
    silent = await site.done()
    assert (await site.get(f"/api/statuses/{silent}/events", headers={"Last-Event-ID": "end"})).status == 204


@pytest.mark.parametrize("event_id", ["x", "-1", "99", "1.1", "6.0.0.0", "6.9.0", "6.1.0", "6.0.3", "0.1.0"])
async def test_unknown_event_id(site: Site, event_id: str) -> None:
    """E2: an id that no stream of this job sent, or beyond the output, is 400 that names the parameter."""
    job_id = await site.done("привет"[:3].encode())
    for query, headers in ((f"?last_event_id={event_id}", {}), ("", {"Last-Event-ID": event_id})):
        answer = await site.get(f"/api/statuses/{job_id}/events{query}", headers=headers)
        assert answer.status == 400
        assert answer.json["parameter"] in {"last_event_id", "Last-Event-ID"}


async def test_header_wins(site: Site) -> None:
    """The header Last-Event-ID takes precedence over the parameter."""
    job_id = await site.done(b"abcdef")
    assert text(await site.replay(job_id, "?last_event_id=2"), "stdout") == "cdef"
    assert text(await site.replay(job_id, "?last_event_id=2", Last_Event_ID="5"), "stdout") == "f"


async def test_unfinished_at_the_end(site: Site) -> None:
    """An incomplete character at the end of the job is sent as U+FFFD, also to a client that resumes before it."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    runner.write(b"a\xd1")
    runner.write(stderr=b"b\xe2\x82")
    await runner.finish()
    events = await site.replay(job_id)
    output = [(event.name, event.data["text"], event.id) for event in events if event.name.startswith("std")]
    assert output == [
        ("stdout", "a", "2.1.0"),
        ("stderr", "b", "5.1.2"),
        ("stdout", "\ufffd", "5.0.2"),
        ("stderr", "\ufffd", "5"),
    ]
    for at in range(len(output)):
        rest = await site.replay(job_id, Last_Event_ID=output[at][2])
        assert [(event.name, event.data["text"], event.id) for event in rest[1:-1]] == output[at + 1 :]


async def test_cr_and_empty_lines(site: Site) -> None:
    """O8, E10: CR, LF, NUL, U+2028 and a forged event in the output are text of one event."""
    written = "50%\r100%\r\n\n\n\0\u2028\u0085\n\nevent: done\nid: end\ndata: {}\n\n:x\r\r"
    job_id = await site.done(written.encode())
    events = await site.replay(job_id)
    assert [event.name for event in events] == ["status", "stdout", "done"]
    assert text(events, "stdout") == written


@pytest.mark.heavy
@pytest.mark.timeout(150)
async def test_random_disconnects(site: Site) -> None:
    """E1: over 200 random disconnects while the job writes, the events join to the stored characters."""
    site.app[JOB_FEEDS].interval = 0.002
    chance = random.Random(7)
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    written, got, last, cuts, done = bytearray(), "", "", 0, False

    async def write() -> None:
        left = b""
        while cuts < 200 or left:
            left = left or "".join(chance.choice("aя漢🦆\n") for _ in range(50)).encode()
            piece, left = left[: (size := chance.randint(1, 40))], left[size:]
            runner.write(piece, b"\xd1" if len(written) % 2 else b"\x8f")
            written.extend(piece)
            await until(lambda: len(written) < len(got.encode()) + 800)
        await runner.finish()

    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        while not done:
            headers = {"Last_Event_ID": last} if last else {}
            async with site.events(job_id, **headers) as (response, events):
                assert response.status == 200
                for _ in range(chance.randint(0, 3)):
                    event = await anext(events, None)
                    if event is None:
                        break
                    last = event.id or last
                    got += event.data["text"] if event.name == "stdout" else ""
                    done = done or event.name == "done"
            cuts += 1
    assert got == written.decode()


async def test_base64(site: Site) -> None:
    """With `encoding=base64` the events have the exact bytes."""
    data = bytes(range(256)) * 600
    job_id = await site.done(data)
    events = await site.replay(job_id, "?encoding=base64")
    pieces = [b64decode(event.data["base64"]) for event in events if event.name == "stdout"]
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 65536
    assert (await site.get(f"/api/statuses/{job_id}/events?encoding=hex")).status == 400


async def test_dropped(site: Site) -> None:
    """Dropped output is reported with its stream and number of bytes, without an id."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim(limit=4)
    runner.write(b"0123456789", b"abc")
    await runner.finish()
    events = [event for event in await site.replay(job_id) if event.name == "dropped"]
    assert [(event.data, event.id) for event in events] == [
        ({"stream": "stdout", "bytes": 6}, None),
        ({"stream": "stderr", "bytes": 3}, None),
    ]


async def test_many_followers_share(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty followers of one job get the same, and its output is read a few times, not fifty."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    feed, reads = site.app[JOB_FEEDS].get(job_id), 0
    make = feed._make

    async def counted(*args: object) -> object:
        nonlocal reads
        frame = await make(*args)  # type: ignore[arg-type]
        reads += frame is not None
        return frame

    monkeypatch.setattr(feed, "_make", counted)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(site.replay(job_id)) for _ in range(50)]
        await until(lambda: len(site.connections) >= 50)
        for number in range(20):
            runner.write(f"line {number}\n".encode())
            await asyncio.sleep(0.01)
        await runner.finish()
    wanted = "".join(f"line {number}\n" for number in range(20))
    assert {text(follower.result(), "stdout") for follower in followers} == {wanted}
    assert reads < 60


async def test_who_comes_waits_for_no_interval(site: Site) -> None:
    """Clients that come one after the other are answered at once, however many come within an interval."""
    site.app[JOB_FEEDS].interval = 60.0
    job_id = await site.submit()
    feed = site.app[JOB_FEEDS].get(job_id)
    async with asyncio.timeout(10), AsyncExitStack() as stack:
        for number in range(1, 11):
            _, events = await stack.enter_async_context(site.events(job_id))
            assert (await anext(events)).data["state"] == "queued"
            await until(lambda number=number: len(feed.broadcast._members) == number)  # type: ignore[misc]


async def test_many_followers_cause_one_read_per_interval(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many follow a job, it is read once per interval, but for the few reads that follow a pause."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    output, reads, clock = site.store.output, 0, asyncio.get_running_loop().time

    async def counted(*args: int) -> Output:
        nonlocal reads
        reads += 1
        return await output(*args)

    feed = site.app[JOB_FEEDS].get(job_id)
    async with asyncio.timeout(50), asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(site.replay(job_id))
        await until(lambda: len(feed.broadcast._members) == 50)
        monkeypatch.setattr(site.store, "output", counted)
        begun = clock()
        for number in range(50):
            runner.write(f"line {number}\n".encode())
            await asyncio.sleep(0.01)
        await runner.finish()
    assert 0 < reads <= (clock() - begun) / INTERVAL + 3


async def test_a_quiet_job_is_not_coalesced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first byte of a quiet job is sent at once; it waits neither for an interval nor for a poll."""
    monkeypatch.setattr(notifications, "_POLL_INTERVAL", 3600.0)
    site.app[JOB_FEEDS].interval = 60.0
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    async with asyncio.timeout(2), site.events(job_id) as (_, events):
        assert (await anext(events)).data["state"] == "running"
        runner.write(b"x")
        assert (await anext(events)).data["text"] == "x"


async def test_follow_as_text(site: Site) -> None:
    """`output?follow=true` sends bytes as they arrive and ends with the job."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    url = f"http://127.0.0.1:{site.port}/api/statuses/{job_id}/output?follow=true"
    async with asyncio.timeout(10), site.session.get(url) as response:
        await runner.claim()
        for piece in ("раз\n".encode(), b"\xff\n"):
            runner.write(piece)
            assert await response.content.readline() == piece
        runner.write(stderr=b"last")
        await runner.finish()
        assert await response.content.read() == b"last"


async def test_silence_costs_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of a silent job wakes up once per heartbeat, not in a busy loop."""
    site.app[STREAMS].heartbeat = 0.1
    job_id = await site.submit()
    wait_for, wakeups = ResponseStream.wait_for, []

    async def noted(outlet: ResponseStream, subscription: Subscription) -> bool:
        wakeups.append(asyncio.get_running_loop().time())
        return await wait_for(outlet, subscription)

    monkeypatch.setattr(ResponseStream, "wait_for", noted)
    url = f"http://127.0.0.1:{site.port}/api/statuses/{job_id}/output?follow=true"
    async with site.session.get(url):
        await until(lambda: len(wakeups) > 4)
    assert wakeups[4] - wakeups[0] > 0.3  # four heartbeats, of which the first may be noted late
    await until(lambda: not site.connections)


async def test_heartbeat(site: Site) -> None:
    """A silent stream sends heartbeats, which are not events."""
    site.app[STREAMS].heartbeat = 0.05
    job_id = await site.submit()
    request = f"GET /api/statuses/{job_id}/events HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n"
    assert (await site.raw(request, until=b"\r\n:\n\n\r\n")).endswith(b"3\r\n:\n\n\r\n")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("statuses/{}/events", bytes(range(65, 91)) * ((1 << 24) // 26)),
        ("statuses/{}/events", bytes(1 << 22)),
        ("statuses/{}/output", bytes(1 << 24)),
        ("results/{}/stdout", bytes(1 << 24)),
        ("results/{}", bytes(1 << 20)),
    ],
    ids=["events", "escapes", "output", "raw", "json"],
)
async def test_slow_reader(site: Site, path: str, data: bytes) -> None:
    """E7: a client that reads nothing costs little memory, is disconnected, and can resume."""
    # Longer than it takes to make the largest of the answers, during which nothing is sent.
    site.app[CONNECTIONS].limits = ConnectionLimits(send_timeout=2.0)
    job_id = await site.done(data, data)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", site.port))
        (connection,) = await _connections(site)
        # Else the kernel would take all of a short answer from us.
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        target = f"/api/{path.format(job_id)}"
        slow.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost:{site.port}\r\n\r\n".encode())
        slow.setblocking(False)
        most = 0

        def cut() -> bool:
            nonlocal most
            if connection.transport is not None:
                most = max(most, connection.transport.get_write_buffer_size())
            return not site.connections

        await until(cut, 20)
    assert 0 < most < 100_000
    rest = await site.replay(job_id, Last_Event_ID=str(2 * len(data) - 5))
    assert text(rest, "stderr") == data[-5:].decode()


async def test_frames_are_small(site: Site) -> None:
    """Every frame is small, however much of the output is escaped."""
    written = b"a" * 100_000 + bytes(200_000) + b"\xff" * 100_000
    job_id = await site.done(written)
    feed, cursor, frames = site.app[JOB_FEEDS].get(job_id), StreamCursor(), []
    snapshot = await feed.snapshot()
    while frame := await feed.frame(cursor, snapshot):
        frames.append(frame)
        cursor = frame.cursor
    assert cursor == StreamCursor(len(written))
    assert max(len(frame.events) for frame in frames) <= 2 * FRAME_SIZE
    assert text(await site.replay(job_id), "stdout") == written.decode("utf-8", "replace")


async def test_a_large_output_is_read_and_quoted_in_few_steps(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two megabytes are read eight times, each time a frame's worth, and quoted once."""
    reads, quoted = Counter[int](), Counter[str]()

    def counted_read(output: IndexedOutput, position: int, limit: int) -> list[Extent]:
        extents = read(output, position, limit)
        reads[limit] += 1  # not one that a cluster's node begins without the database, and has to begin again
        return extents

    def counted_encode(text: str) -> bytes:
        quoted["characters"] += len(text)
        return encode(text)

    read = index.read
    monkeypatch.setattr(index, "read", counted_read)
    monkeypatch.setattr(sse, "encode", counted_encode)
    data = b"0123456789abcde\n" * (2 << 16)
    job_id = await site.done(data)
    assert text(await site.replay(job_id), "stdout") == data.decode()
    assert reads == {FRAME_SIZE: len(data) // FRAME_SIZE}
    assert FRAME_SIZE >= 1 << 18
    assert quoted["characters"] == len(data)


async def test_large_answers_are_whole(site: Site) -> None:
    """A large JSON response is complete, with its length and ETag, and the same for HEAD."""
    job_id = await site.done(b"x" * 500_000, "я".encode() * 100_000)
    path = f"/api/results/{job_id}"
    answer = await site.get(path)
    assert (answer.json["stdout"], answer.json["stderr"]) == ("x" * 500_000, "я" * 100_000)
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Server"] == "shellrunner"
    head = await site.ask("HEAD", path)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(answer.body)), b"")
    assert (await site.get(path, headers={"If-None-Match": answer.headers["ETag"]})).status == 304


async def _connections(site: Site) -> list[Any]:
    await until(lambda: bool(site.connections))
    return site.connections


async def test_gone_client_is_noticed(site: Site) -> None:
    """E8, E9: a disconnected follower is freed by the next heartbeat, and the job continues."""
    site.app[STREAMS].heartbeat = 0.05
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    async with site.events(job_id) as (_, events):
        await anext(events)
    await until(lambda: not site.connections)
    await runner.finish()
    assert (await site.get(f"/api/statuses/{job_id}")).status == 303


async def test_shutdown_ends_streams(tmp_path: object) -> None:
    """At shutdown streams end at once, a followed text is aborted, and new requests are 503."""
    async with serving(tmp_path) as site:  # type: ignore[arg-type]
        job_id = await site.submit()
        request = "GET /api/statuses/{}/{} HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n"
        async with asyncio.timeout(2), asyncio.TaskGroup() as tasks:
            events = tasks.create_task(site.raw(request.format(job_id, "events")))
            output = tasks.create_task(site.raw(request.format(job_id, "output?follow=true")))
            await until(lambda: len(site.app[STREAMS]._timeouts) == 2)
            site.app[STREAMS].close()
            for verb, path in (("GET", f"statuses/{job_id}/events"), ("POST", "jobs")):
                answer = await site.ask(verb, f"/api/{path}", json={"command": "true"})
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert (await site.get("/readyz")).status == 503
            await site.runner.cleanup()
        assert events.result().endswith(b"\r\n0\r\n\r\n")
        assert output.result().endswith(b"\r\n\r\n")
        assert not output.result().endswith(b"\r\n0\r\n\r\n")


async def test_deleted_while_followed(site: Site) -> None:
    """The stream of a deleted job ends, and a client that reconnects gets 404."""
    job_id = await site.submit()
    async with asyncio.timeout(5), site.events(job_id) as (_, events):
        await anext(events)
        await site.store.request_cancel(job_id)
        await site.store.delete_job(job_id)
        assert [event.name async for event in events] in ([], ["status", "done"])
    assert (await site.get(f"/api/statuses/{job_id}/events")).status == 404


async def test_restart(tmp_path: object) -> None:
    """E1: a stream that ended with the server resumes at the next server where it was."""
    async with serving(tmp_path) as site:  # type: ignore[arg-type]
        job_id = await site.done("раз два".encode())
        seen = await site.replay(job_id)
    async with serving(tmp_path) as site:  # type: ignore[arg-type]
        assert json.dumps([vars(event) for event in await site.replay(job_id)]) == json.dumps(
            [vars(event) for event in seen]
        )
        assert text(await site.replay(job_id, Last_Event_ID="7"), "stdout") == "два"
