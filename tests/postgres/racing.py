"""Two stores that are open on one database, and what both do at the same moment."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import TypeVar

from shellrunner.model import Claim, Done, Job, JobSpec, State
from shellrunner.store import QueueLimit, Store
from tests.support.histories import NOTHING, ended
from tests.support.waiting import until

T = TypeVar("T")


class Nodes:
    """Two nodes, and their claims."""

    def __init__(self, one: Store, two: Store, chance: random.Random) -> None:
        self.one, self.two, self.chance = one, two, chance
        self.both = (one, two)
        self.claimed: list[tuple[Store, Claim]] = []
        self._tokens = 0

    @property
    def some(self) -> Store:
        """Return one of the two."""
        return self.chance.choice(self.both)

    async def soon(self, action: Awaitable[T], most: float = 0.004) -> T:
        """Do it after a moment of up to `most` seconds, so that each round has another order."""
        await asyncio.sleep(self.chance.uniform(0, most))
        return await action

    async def add(self, spec: JobSpec, count: int) -> list[Job]:
        """Have jobs be accepted by both nodes in turn."""
        return list(await asyncio.gather(*(self.both[n % 2].add(spec) for n in range(count))))

    async def settle(self) -> None:
        """Wait until each node has run a write batch, with the claims at its end."""
        await asyncio.gather(*(store.check() for store in self.both))

    def claim(self, store: Store, most: float = 0) -> "asyncio.Task[Claim]":
        """Ask for a job at a node, after a moment of up to `most` seconds; what it gets is noted in `claimed`."""
        self._tokens += 1
        return asyncio.create_task(self._claim(store, f"t{self._tokens}", most))

    async def _claim(self, store: Store, token: str, most: float) -> Claim:
        await asyncio.sleep(self.chance.uniform(0, most))
        claim = await store.claim(1, token)
        self.claimed.append((store, claim))
        return claim

    def claims_of(self, jobs: Sequence[Job]) -> Counter[int]:
        """Return how many claims there were of each of these jobs."""
        wanted = {job.id for job in jobs}
        return Counter(claim.job_id for _, claim in self.claimed if claim.job_id in wanted)

    async def all_claimed(self, jobs: Sequence[Job]) -> None:
        """Wait until each of these jobs was claimed, and require that none was claimed twice."""
        await until(lambda: len(self.claims_of(jobs)) == len(jobs), what=f"{len(jobs)} jobs are claimed")
        assert self.claims_of(jobs) == Counter({job.id: 1 for job in jobs})

    async def queue(self, name: str, limit: QueueLimit) -> None:
        """Make a queue at one node, and wait until the other one knows it."""
        await self.one.limit_queue(name, limit)
        await until(lambda: name in self.two.queue_names, what="the other node knows the queue")

    async def finish_claimed(self) -> None:
        """End every job that was claimed and runs."""
        for store, claim in self.claimed:
            assert await store.finish(claim.job_id, claim.token, ended(), *NOTHING), f"job {claim.job_id}"
        self.claimed.clear()

    async def states(self, jobs: Sequence[Job]) -> Counter[State]:
        """Return how many of these jobs are in each state, as some node has it."""
        return Counter(job.state for job in await self.some.jobs([job.id for job in jobs]))

    async def reach(self, jobs: Sequence[Job], state: State) -> None:
        """Wait until all of these jobs have this state.

        Raises:
            AssertionError: one of them is stuck.
        """

        async def reached() -> bool:
            return await self.states(jobs) == Counter({state: len(jobs)})

        await until(reached, what=f"{len(jobs)} jobs are {state}")

    async def ending(self, job: Job) -> str:
        """Return how a job ended."""
        phase = (await self.some.job(job.id)).phase
        assert isinstance(phase, Done), phase
        return phase.end.ending.value


async def ended_requests(requests: Sequence["asyncio.Task[Claim]"]) -> None:
    """End requests for jobs that were not served, as a keeper that stops waiting."""
    for request in requests:
        request.cancel()
    for request in requests:
        with suppress(asyncio.CancelledError):
            await request
