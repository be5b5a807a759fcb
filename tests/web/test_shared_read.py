"""Shared reads: how many there are, how old their results may be, and how long a caller waits."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from shellrunner.web.feeds.job_feed import JOB_FEEDS
from shellrunner.web.feeds.shared_read import SharedRead
from tests.support.site import Site
from tests.support.waiting import until


class Counter:
    """A state that is the number of reads so far; each read may take time."""

    def __init__(self, takes: float = 0.0) -> None:
        self.reads = 0
        self._takes = takes

    async def __call__(self) -> int:
        self.reads += 1
        number = self.reads
        await asyncio.sleep(self._takes)
        return number


async def elapsed(wait: Callable[[], Awaitable[object]]) -> float:
    clock = asyncio.get_running_loop().time
    before = clock()
    await wait()
    return clock() - before


async def test_callers_of_one_turn_share_a_read() -> None:
    """Two hundred callers that one notification woke get the result of one read."""
    read = Counter()
    shared = SharedRead(read, 0.05)
    assert set(await asyncio.gather(*(shared.latest() for _ in range(200)))) == {1}
    assert read.reads == 1


async def test_a_caller_never_gets_a_read_that_began_before_its_call() -> None:
    """A caller during a read gets the next one, which all such callers share."""
    read = Counter(takes=0.02)
    shared = SharedRead(read, 0.001)
    first = asyncio.create_task(shared.latest())
    while not read.reads:
        await asyncio.sleep(0)
    assert await asyncio.gather(*(shared.latest() for _ in range(10))) == [2] * 10
    assert await first == 1


async def test_after_a_pause_nobody_waits() -> None:
    """The first calls after a pause are served at once: a quiet job's first byte is not held back."""
    shared = SharedRead(Counter(), 5.0)

    async def three() -> None:
        for _ in range(3):
            await shared.latest()

    assert await elapsed(three) < 0.5


async def test_a_steady_flow_is_limited() -> None:
    """However often it is called, there is one read per interval, but for the few that follow a pause."""
    read = Counter()
    shared = SharedRead(read, 0.02)
    clock = asyncio.get_running_loop().time
    begun = clock()
    while clock() < begun + 0.4:
        await shared.latest()
    assert read.reads <= (clock() - begun) / 0.02 + 3


async def test_a_call_waits_less_than_an_interval() -> None:
    """A caller in a steady flow waits for the rest of the interval, not for an interval of its own."""
    shared = SharedRead(Counter(), 0.5)
    for _ in range(3):
        await shared.latest()
    await until(lambda: shared._earliest() - shared._now() < 0.1, what="most of the interval has passed")
    assert await elapsed(shared.latest) < 0.4


async def test_a_cancelled_caller_leaves_the_others_a_read() -> None:
    """A caller that is cancelled while it reads leaves those who wait behind it a read of their own."""
    began, reads = asyncio.Event(), 0

    async def read() -> str:
        nonlocal reads
        reads += 1
        if reads == 1:
            began.set()
            await asyncio.Event().wait()
        return "state"

    shared = SharedRead(read, 0.01)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        first, second = tasks.create_task(shared.latest()), tasks.create_task(shared.latest())
        await began.wait()
        first.cancel()
    assert second.result() == "state"


async def test_where_somebody_may_be_typing_little_is_coalesced(site: Site) -> None:
    """Followers of a terminal with input are served at once for many keys in a row, others are not."""
    site.app[JOB_FEEDS].interval = 5.0

    async def eight(job_id: int) -> None:
        feed = site.app[JOB_FEEDS].get(job_id)
        await feed.first_snapshot()
        for _ in range(8):
            await feed.snapshot()

    assert await elapsed(partial(eight, await site.submit(tty=True, stdin={"stream": True}))) < 2
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await eight(await site.submit(tty=True))
