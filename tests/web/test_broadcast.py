"""Many followers of one thing: what is made and woken once for all of them, and what a slow one costs the others."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from shellrunner.errors import StoreUnavailable
from shellrunner.model import JobSpec
from shellrunner.store import Subscription
from shellrunner.store.notifications import Notifications
from shellrunner.store.output import index
from shellrunner.store.sqlite.store import SqliteStore
from shellrunner.web.feeds import broadcast
from shellrunner.web.feeds.broadcast import Broadcast
from shellrunner.web.feeds.job_feed import JOB_FEEDS, MAX_LIVE_SIZE, JobFeed, Received
from shellrunner.web.feeds.shared_read import SharedRead
from shellrunner.web.feeds.status_feed import STATUS_FEED
from shellrunner.web.http.streaming import STREAMS, ResponseStream
from shellrunner.wire import serialize, sse
from shellrunner.wire.sse import StreamCursor
from tests.support.selected_service import IS_CLUSTER
from tests.support.site import Site
from tests.support.sse import Event, parse
from tests.support.waiting import until


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, *names: str) -> Counter[str]:
    """Count the calls of these functions from now on."""
    counts: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            counts[name] += 1
            return function(*args, **more)

        return call

    for name in names:
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    return counts


def notifications(site: Site) -> Notifications:
    assert isinstance(site.store, SqliteStore) or IS_CLUSTER
    return site.store._effects.notifications  # type: ignore[attr-defined,no-any-return]


async def members_of(feed: Broadcast[Any], number: int) -> None:
    await until(lambda: len(feed._members) == number, what=f"{number} followers have everything")


@pytest.mark.sqlite(reason="it counts reads of output; in a cluster it comes in chunks")
@pytest.mark.parametrize("followers", [3, 30])
async def test_a_line_is_made_once_and_wakes_no_follower(
    site: Site, monkeypatch: pytest.MonkeyPatch, followers: int
) -> None:
    """However many follow a job, a line of output is read once, quoted once, and written once to each of them."""
    site.app[JOB_FEEDS].interval = 0.001
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        streams = [(await stack.enter_async_context(site.events(job_id)))[1] for _ in range(followers)]
        for events in streams:
            assert (await anext(events)).data["state"] == "running"
        feed = site.app[JOB_FEEDS].get(job_id)
        await members_of(feed.broadcast, followers)
        await until(lambda: notifications(site)._watched == {job_id})
        reads, frames = count_calls(monkeypatch, index, "read"), count_calls(monkeypatch, sse, "encode")
        woken = count_calls(monkeypatch, ResponseStream, "wait_for", "_wait_until_heartbeat", "send", "drain")
        written = count_calls(monkeypatch, ResponseStream, "offer")
        makes = count_calls(monkeypatch, feed, "_make_sized")
        for number in range(5):
            runner.write(b"%d\n" % number)
            assert {(await anext(events)).data["text"] for events in streams} == {f"{number}\n"}
        assert (reads, frames, written) == ({"read": 5}, {"encode": 5}, {"offer": 5 * followers})
        assert not woken
        assert makes["_make_sized"] <= 15  # also at the end of each snapshot, where nothing more is found
        await runner.finish()
        for events in streams:
            assert [event.name async for event in events] == ["status", "done"]


async def test_a_change_is_rendered_once_also_for_a_late_reader(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is read and rendered once: for those who follow, and for who comes later; that one gets the latest."""
    rendered, reads = count_calls(monkeypatch, serialize, "status"), count_calls(monkeypatch, site.store, "jobs")
    url = f"http://127.0.0.1:{site.port}/api/statuses/events"
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        responses = [await stack.enter_async_context(site.session.get(url)) for _ in range(20)]
        streams = [parse(response.content) for response in responses]
        feed, runner = site.app[STATUS_FEED], site.simulated_runner()
        await members_of(feed.broadcast, 20)
        position = feed.event_id(feed.head)
        woken = count_calls(monkeypatch, ResponseStream, "wait_for", "_wait_until_heartbeat", "send", "drain")
        for _ in range(2):
            job = await site.store.add(JobSpec(command="true"))
            for step in (lambda: None, runner.claim, runner.finish):
                if (waiting := step()) is not None:
                    await waiting
                ids = {(await anext(events)).id for events in streams}
                assert ids == {feed.event_id(feed.head)}
        assert (rendered, reads) == ({"status": 6}, {"jobs": 6})
        assert not woken
        async with site.session.get(url, headers={"Last-Event-ID": position}) as response:
            late = parse(response.content)
            events = [await anext(late) for _ in range(2)]
        assert [(event.data["status_id"], event.data["state"]) for event in events] == [
            (job.id - 1, "done"),
            (job.id, "done"),
        ]
        assert events[-1].id == feed.event_id(feed.head)
        assert (rendered, reads) == ({"status": 6}, {"jobs": 6})


async def test_a_busy_subscriber_costs_a_notification_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hundred followers a change notifies one: the task that writes to all of them."""
    url = f"http://127.0.0.1:{site.port}/api/statuses/events"
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        for _ in range(100):
            await stack.enter_async_context(site.session.get(url))
        await members_of(site.app[STATUS_FEED].broadcast, 100)
        ((topic, state),) = notifications(site)._topics.items()
        assert (topic, state.subscriptions) == ("all jobs", 101)
        await until(lambda: len(state._event._waiters) == 1)


async def _text(events: AsyncIterator[Event]) -> str:
    return "".join([event.data["text"] async for event in events if event.name == "stdout"])


@pytest.mark.heavy
@pytest.mark.sqlite(reason="it counts reads of output; in a cluster it comes in chunks")
async def test_a_slow_follower_is_left_behind_and_catches_up(site: Site) -> None:
    """Who reads nothing gets no more than a buffer holds, delays nobody, and has every byte once it reads again."""
    site.app[JOB_FEEDS].interval = 0.001
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    async with asyncio.timeout(20), site.events(job_id) as (_, slow), site.events(job_id) as (_, fast):
        for events in (slow, fast):
            await anext(events)
        feed = site.app[JOB_FEEDS].get(job_id)
        await members_of(feed.broadcast, 2)
        written, got, most = "", "", 0
        while len(feed.broadcast._members) == 2:  # the slow one's client has stopped reading once its buffer was full
            line = f"{len(written)}".ljust(40_000, ".")
            runner.write(line.encode())
            written += line
            while len(got) < len(written):
                got += (await anext(fast)).data["text"]
            most = max(each.transport.get_write_buffer_size() for each in site.connections if each.transport)
        runner.write(b"last")
        assert (await anext(fast)).data["text"] == "last"
        assert 0 < most < 200_000
        await runner.finish()
        assert await _text(slow) == written + "last"
        assert got == written


async def test_what_is_too_much_at_once_is_sent_at_each_followers_pace(site: Site) -> None:
    """Output that does not fit into one write is sent to each follower by its own task, to the last byte."""
    site.app[JOB_FEEDS].interval = 0.001
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    feed = site.app[JOB_FEEDS].get(job_id)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(site.replay(job_id)) for _ in range(3)]
        await members_of(feed.broadcast, 3)
        written = "".join(f"{number}\n" for number in range(3 * MAX_LIVE_SIZE))
        runner.write(written[:10].encode())
        runner.write(written[10:].encode())
        await runner.finish()
    for follower in followers:
        assert "".join(event.data["text"] for event in follower.result() if event.name == "stdout") == written


@pytest.mark.sqlite(reason="it counts reads of output; in a cluster it comes in chunks")
async def test_what_is_too_much_at_once_is_not_collected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a job has written, the task for all followers makes one frame of it, then leaves it to them."""
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    runner.write(bytes(b"0123456789abcdef" * (1 << 17)))
    feed = site.app[JOB_FEEDS].get(job_id)
    received = Received(StreamCursor(), (await feed.snapshot()).status)
    frames = count_calls(monkeypatch, feed, "_make_sized")
    assert [data async for data, _ in feed.live(received)] == []
    assert frames == {"_make_sized": 1}


@pytest.mark.heavy
async def test_a_heartbeat_is_due_only_after_silence(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is written to gets no heartbeat, although its own task has not written; a silent one does."""
    site.app[STREAMS].heartbeat = 0.2
    site.app[JOB_FEEDS].interval = 0.001
    job_id = await site.submit()
    runner = site.simulated_runner()
    await runner.claim()
    async with asyncio.timeout(20), site.events(job_id) as (_, events):
        await anext(events)
        await members_of(site.app[JOB_FEEDS].get(job_id).broadcast, 1)
        sends, timeouts = (
            count_calls(monkeypatch, ResponseStream, name) for name in ("send", "_wait_until_heartbeat")
        )
        clock = asyncio.get_running_loop().time
        begun, longest, last = clock(), 0.0, clock()
        while clock() < begun + 0.5 or not timeouts:
            runner.write(b"x")
            await anext(events)
            longest, last = max(longest, clock() - last), clock()
        assert not sends or longest > 0.15
        await until(lambda: sends)


class Clock:
    """A clock by which only writing takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Follower:
    """A follower whose client takes everything; each write takes a millisecond."""

    closing = False

    def __init__(self, clock: Clock) -> None:
        self._clock, self.received = clock, b""

    async def offer(self, data: bytes) -> bool:
        self._clock.now += 0.001
        self.received += data
        return True

    async def drain(self) -> None: ...

    async def send(self, data: bytes) -> None:
        raise NotImplementedError

    async def wait_for(self, subscription: Subscription) -> bool:
        await subscription.wait()
        return True


async def test_the_event_loop_has_other_work_between_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """While 60 followers are written to for 60 ms, others have a turn after each three, and all of it is charged."""
    clock, charged, turns = Clock(), [0.0], 0
    monkeypatch.setattr(broadcast, "perf_counter", clock)
    feed = Broadcast[int](charged.append)
    followers = [Follower(clock) for _ in range(60)]
    begin = asyncio.Event()

    async def updates(position: int) -> AsyncGenerator[tuple[bytes, int], None]:
        await begin.wait()
        yield b"update", position + 1

    async def other_work() -> None:
        nonlocal turns
        while not all(follower.received for follower in followers):
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        positions = [tasks.create_task(feed.follow(follower, 7, updates)) for follower in followers]
        await members_of(feed, 60)
        begin.set()
        tasks.create_task(other_work())
    assert {position.result() for position in positions} == {8}
    assert turns >= 15
    assert sum(charged) == pytest.approx(0.06)


async def test_who_comes_just_as_the_last_member_leaves_gets_nothing_that_is_not_its_own() -> None:
    """A follower at another position does not become a member, although there is none at that moment."""
    feed, newcomer = Broadcast[int](lambda _: None), Follower(Clock())
    coming: list[asyncio.Task[int]] = []

    class Slow(Follower):
        async def offer(self, data: bytes) -> bool:
            coming.append(asyncio.create_task(feed.follow(newcomer, 99, updates)))  # runs before this one's own task
            return False

    async def updates(position: int) -> AsyncGenerator[tuple[bytes, int], None]:
        for number in range(3):
            yield b"update", position + number + 1
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        assert await feed.follow(Slow(Clock()), 7, updates) == 7
        assert await coming[0] == 99
    assert newcomer.received == b""


@pytest.mark.parametrize(("failure", "logged"), [(StoreUnavailable("closed"), False), (RuntimeError("a bug"), True)])
async def test_an_error_lets_every_follower_look_by_itself(
    caplog: pytest.LogCaptureFixture, failure: Exception, logged: bool
) -> None:
    """Whatever ends the one task, each follower goes on where it is; an error that nobody foresaw is logged."""

    async def updates(_: int) -> AsyncGenerator[tuple[bytes, int], None]:
        await asyncio.sleep(0)
        raise failure
        yield b"", 0

    feed = Broadcast[int](lambda _: None)
    async with asyncio.timeout(5):
        positions = await asyncio.gather(*(feed.follow(Follower(Clock()), 3, updates) for _ in range(5)))
    assert positions == [3] * 5
    assert ("a bug" in caplog.text) is logged


async def test_what_reads_lead_to_takes_a_share_of_the_time_only() -> None:
    """The next read waits for twice as long as what was done with the last one took."""

    async def read() -> None: ...

    shared = SharedRead(read, 0.0)
    await shared.latest()
    before = shared._now()
    shared.charge(5.0)
    shared.charge(5.0)
    assert shared._earliest() - before == pytest.approx(20.0, abs=1.0)


def test_a_feed_without_followers_is_freed_at_once(site: Site) -> None:
    """A feed is not kept by what it is made of: the last follower's leaving frees it."""
    feed: JobFeed | None = site.app[JOB_FEEDS].get(1)
    assert len(site.app[JOB_FEEDS]._feeds) == 1
    del feed
    assert not site.app[JOB_FEEDS]._feeds
