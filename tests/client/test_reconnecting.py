"""Broken connections: nothing is lost, repeated or done twice, and each retry is reported."""

import asyncio
import operator
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import pytest

from shellrunner.client import AttemptEnded, Client, ClientError, Event, JobDeleted, JobEnded, OutputReceived
from tests.support.service import Service
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

# It waits between writes, so that the streams stay distinct and the events small.
WRITER = """
import os, random, time
dice = random.Random(7)
for n in range(300):
    os.write(1 + n % 2, dice.randbytes(dice.randrange(1, 2000)))
    time.sleep(0.001)
"""
GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<br/>"


@pytest.mark.heavy
async def test_a_stream_that_is_cut_anywhere_is_whole(shared: Service, wire: TcpProxy) -> None:
    """A stream cut many times at random bytes, even within events, yields the stored bytes of both streams once."""
    number = (await shared.run(argv=["python3", "-c", WRITER]))["job_id"]
    dice = random.Random(8)
    wire.breaks = [dice.randrange(200, 20_000) for _ in range(40)]
    got, ids = {"stdout": b"", "stderr": b""}, []
    async with Client(wire.url) as client:
        async for event in client.follow(number):
            if isinstance(event, OutputReceived):
                got[event.stream] += event.data
                ids.append(int(event.id))
        assert isinstance(event, JobEnded)
    assert wire.broken >= 10
    assert len(ids) > 100
    assert got == {stream: await shared.raw(number, stream) for stream in got}
    assert ids == sorted(set(ids))


@pytest.mark.heavy
async def test_a_job_is_followed_from_any_event(shared: Service) -> None:
    """`follow` with `after` yields exactly what follows the event with that id."""
    number = (await shared.run(argv=["python3", "-c", WRITER]))["job_id"]
    async with Client(shared.url) as client:
        events = [event async for event in client.follow(number) if isinstance(event, OutputReceived)]
        half = events[len(events) // 2]
        rest = [event async for event in client.follow(number, after=half.id) if isinstance(event, OutputReceived)]
    whole, head = (b"".join(event.data for event in part) for part in (events, events[: len(events) // 2 + 1]))
    assert head + b"".join(event.data for event in rest) == whole


async def test_the_end_of_each_attempt_comes_once(shared: Service, wire: TcpProxy) -> None:
    """However often a stream is cut, and from any event on, attempts end between the output of one and the next."""
    number = (await shared.run("echo x; exit 4", retries={"max": 8}))["job_id"]
    dice = random.Random(10)
    wire.breaks = [dice.randrange(900, 1600) for _ in range(9)]
    async with Client(wire.url) as client:
        whole = [brief async for event in client.follow(number) if (brief := _brief(event))]
        assert wire.broken >= 4
        ends = [each for count in range(1, 9) for each in ((f"{2 * count}", b"x\n"), (f"{2 * count}-{count}", count))]
        assert whole == [*ends, ("18", b"x\n")]
        wire.breaks = []
        for count, (event_id, _) in enumerate(whole, start=1):
            rest = [brief async for event in client.follow(number, after=event_id) if (brief := _brief(event))]
            assert rest == whole[count:]


def _brief(event: Event) -> tuple[str, object] | None:
    match event:
        case OutputReceived():
            return event.id, event.data
        case AttemptEnded(end, event_id):
            assert (end["exit_code"], end["max_attempts"]) == (4, 9)
            return event_id, end["attempt"]
    return None


async def test_raw_output_goes_on_where_it_broke(shared: Service, wire: TcpProxy) -> None:
    """A download whose connections break is resumed by range requests, and is complete."""
    number = (await shared.run("head -c 3000000 /dev/zero | tr '\\0' 'x'"))["job_id"]
    wire.breaks = [random.Random(9).randrange(1, 900_000) for _ in range(5)]
    async with Client(wire.url) as client:
        pieces = [piece async for piece in client.stdout(number)]
    assert wire.broken >= 3
    assert b"".join(pieces) == b"x" * 3_000_000


@pytest.mark.heavy
async def test_input_is_given_once_however_often_the_answer_is_lost(shared: Service, wire: TcpProxy) -> None:
    """The command reads each byte once, wherever the responses to the input are cut."""
    given_bytes = random.Random(10).randbytes(300_000)

    async def pieces() -> AsyncIterator[Any]:
        for at in range(0, len(given_bytes), 10_000):
            yield given_bytes[at : at + 10_000]

    async with Client(shared.url) as steady, Client(wire.url) as client:
        number = (await steady.submit("cat", stdin={"stream": True}))["job_id"]
        wire.breaks = [0, 10, 150, 700, 0, 0, 1000, 30, 2000, 0, 500]
        assert await client.pipe_stdin(number, pieces()) is True
        await steady.wait(number)
        assert wire.broken >= 8
        assert b"".join([piece async for piece in steady.stdout(number)]) == given_bytes


async def test_input_for_a_job_that_is_done_is_not_given(shared: Service) -> None:
    """`pipe_stdin` returns False for a job that is done, and raises no error."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"too late"

    async with Client(shared.url) as client:
        number = (await client.submit("true", stdin={"stream": True}))["job_id"]
        await client.wait(number)
        assert await client.pipe_stdin(number, pieces()) is False


@pytest.mark.parametrize("budget", [0, 20, 200])
async def test_a_submission_whose_answer_is_lost_is_one_job(wire: TcpProxy, budget: int) -> None:
    """A submission is retried with the same idempotency key, and creates one job."""
    wire.breaks = [budget, budget]
    label = f"lost{budget}"
    async with Client(wire.url) as client:
        job = await client.submit("true", labels={"test": label})
        assert [found["job_id"] async for found in client.jobs(label=f"test:{label}")] == [job["job_id"]]
    assert sum(line.startswith("POST") for line in wire.asked) == 3


async def test_what_must_not_be_done_twice_is_not_asked_twice(shared: Service, wire: TcpProxy) -> None:
    """A signal whose response is lost raises an error and is sent only once, because the outcome is unknown."""
    number = await shared.submit("sleep 60")
    await shared.running(number)
    async with Client(wire.url) as client:
        wire.breaks = [0]
        with pytest.raises(ClientError, match="broke") as caught:
            await client.signal(number, "SIGCONT")
    assert caught.value.kind == "interrupted"
    assert len(wire.asked) == 1
    await shared.ask("POST", f"/api/jobs/{number}/cancel")


async def test_a_proxy_that_has_lost_the_server_is_waited_for(shared: Service, wire: TcpProxy) -> None:
    """502, 503 and 504 from a proxy are retried; `on_retry` is called for each, and with None in the end."""
    number = await shared.submit("true")
    wire.instead = [GATEWAY, GATEWAY.replace(b"502", b"503"), GATEWAY.replace(b"502", b"504")]
    retries = []
    async with Client(wire.url, on_retry=lambda error: retries.append(error and error.status)) as client:
        assert (await client.wait(number))["exit_code"] == 0
    assert retries == [502, 503, 504, None]


async def test_retries_have_an_end(wire: TcpProxy) -> None:
    """After `retry_for` seconds the last error is raised."""
    wire.instead = [GATEWAY] * 1000
    async with Client(wire.url, retry_for=1) as client:
        with pytest.raises(ClientError, match="answered 502"):
            await client.queues()
    assert 2 < 1000 - len(wire.instead) < 100


async def test_changes_are_seen_over_broken_connections(shared: Service, wire: TcpProxy) -> None:
    """Changes and deletions that happen while no connection is open are yielded after the next one is made."""
    seen: list[Any] = []
    async with Client(wire.url) as client, asyncio.TaskGroup() as group:
        watching = group.create_task(watch(client, seen))
        await until(lambda: wire.asked)
        await until(lambda: submitted_and_seen(shared, seen))  # so the stream has begun
        for _ in range(3):
            wire.cut()
            number = (await shared.run("true"))["job_id"]
            await until(partial(operator.contains, seen, (number, True)))
        await shared.ask("DELETE", f"/api/jobs/{number}")
        await until(lambda: (number, None) in seen)
        watching.cancel()


async def watch(client: Any, seen: Any) -> None:
    """Record each change."""
    async for change in client.changes():
        gone = isinstance(change, JobDeleted)
        seen.append((change.job_id, None) if gone else (change.status["job_id"], change.status["done"]))


async def submitted_and_seen(shared: Service, seen: Any) -> Any:
    """Submit a job, and return whether any change was seen."""
    await shared.submit("true")
    return seen


@pytest.mark.heavy
@pytest.mark.parametrize("stream", [None, "stdout", "stderr"])
async def test_n2_followed_plain_output_goes_on_where_it_broke(
    shared: Service, wire: TcpProxy, stream: Literal["stdout", "stderr"] | None
) -> None:
    """N2: plain output is followed over many cuts, each byte once, from the first or from a later one."""
    number = await shared.submit(argv=["python3", "-c", WRITER])
    dice = random.Random(9)
    wire.breaks = [dice.randrange(200, 20_000) for _ in range(30)]
    async with Client(wire.url) as client:
        got = b"".join([chunk async for chunk in client.output(number, stream=stream, follow=True)])
        assert wire.broken >= 10
        assert got == b"".join([chunk async for chunk in client.output(number, stream=stream)])
        if stream:
            assert got == await shared.raw(number, stream)
        for start in (0, len(got) // 2, len(got)):
            rest = [chunk async for chunk in client.output(number, stream=stream, start=start, follow=True)]
            assert b"".join(rest) == got[start:]
        with pytest.raises(ValueError, match="tail cannot be combined"):
            client.output(number, tail=1, follow=True)


async def test_n2_a_regular_end_before_the_jobs_is_a_cut(shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """N2: where a proxy turns a cut into a regular end, the output goes on until the job is done."""
    number = await shared.submit("echo one; sleep 0.5; echo two")
    begun = 0

    async with Client(shared.url) as client:
        response = client._requester.response

        @asynccontextmanager
        async def ending(method: str, path: str, **options: Any) -> AsyncIterator[Any]:
            nonlocal begun
            begun += "follow=true" in path
            if "follow=true" in path and begun < 3:
                path = path.replace("&follow=true", "")  # what there is by now, and a regular end
            async with response(method, path, **options) as answer:
                yield answer

        monkeypatch.setattr(client._requester, "response", ending)
        got = b"".join([chunk async for chunk in client.output(number, follow=True)])
    assert (got, begun) == (b"one\ntwo\n", 3)
