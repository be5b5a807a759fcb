"""Nodes whose clocks differ from the database's: what is due, and when, goes by the clock that all share."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.keeper.identity import boot_id
from shellrunner.model import JobSpec
from shellrunner.model.spec import Notify
from shellrunner.store import Retention
from shellrunner.store.components.seen_time import ClockMark
from shellrunner.store.postgres.node.database_clock import DatabaseClock
from shellrunner.store.postgres.store import PostgresStore
from shellrunner.store.units import due_callbacks
from tests.support import nodes as several_nodes
from tests.support.histories import NOTHING, ended
from tests.support.nodes import Cluster
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)
_TIMEOUT = 20.0
_AHEAD = 7_200_000  # milliseconds


@pytest.fixture
async def fast(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresStore]:
    """Yield a node whose clock is two hours ahead of the database's."""
    monkeypatch.setattr(DatabaseClock, "difference", property(lambda _: _AHEAD))
    monkeypatch.setattr(due_callbacks, "now_ms", lambda: now_ms() + _AHEAD)
    async with cluster.node("one") as opened:
        yield opened


async def claimed(store: PostgresStore, spec: JobSpec) -> Any:
    """Add a job and claim it."""
    job = await store.add(spec)
    claim = await asyncio.wait_for(store.claim(1, "t"), _TIMEOUT)
    assert claim.job_id == job.id
    return claim


async def test_a_retry_keeps_its_delay(fast: PostgresStore) -> None:
    """However far the clock of the node is ahead that has seen the end."""
    claim = await claimed(fast, JobSpec(command="true"))
    completed = now_ms() + _AHEAD
    end = ended(1, completed=completed)
    assert await fast.finish(claim.job_id, "t", end, *NOTHING, next_attempt_at=completed + 3_600_000)
    phase: Any = (await fast.job(claim.job_id)).phase
    assert (await fast.job(claim.job_id)).state == "waiting"
    assert abs(phase.due - (now_ms() + 3_600_000)) < 60_000


async def test_start_at_holds_for_a_job_that_waited_for_another_one(fast: PostgresStore) -> None:
    """An end that is later than that by the clock of its node does not start it early."""
    claim = await claimed(fast, JobSpec(command="true"))
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    follower = await fast.add(JobSpec(command="true", after=(claim.job_id,), start_at=at))
    assert await fast.finish(claim.job_id, "t", ended(0, completed=now_ms() + _AHEAD), *NOTHING)
    assert (await fast.job(follower.id)).state == "waiting"


async def test_a_callback_is_due_at_the_end(fast: PostgresStore) -> None:
    """And not hours later, when the clock of the database has come so far."""
    claim = await claimed(fast, JobSpec(command="true", notify=Notify(url="http://localhost:1/")))
    assert await fast.finish(claim.job_id, "t", ended(0, completed=now_ms() + _AHEAD), *NOTHING)
    assert [due.job.id for due in await fast.due_callbacks(10)] == [claim.job_id]


async def test_a_callback_is_tried_again_after_its_delay(fast: PostgresStore, cluster: Cluster) -> None:
    """The sender goes by its node's clock, and the row by that of the database."""
    claim = await claimed(fast, JobSpec(command="true", notify=Notify(url="http://localhost:1/")))
    assert await fast.finish(claim.job_id, "t", ended(0, completed=now_ms() + _AHEAD), *NOTHING)
    retry_at = now_ms() + _AHEAD + 60_000
    await fast.record_callback_try(claim.job_id, error="refused", retry_at=retry_at)
    assert cluster.execute("SELECT due FROM callbacks") == [(retry_at - _AHEAD,)]
    due = await fast.next_callback_at()
    assert due is not None
    assert due == retry_at


async def test_a_clock_that_is_set_ahead_removes_nothing(cluster: Cluster) -> None:
    """No job is too old because of it, while what was seen to pass says otherwise."""
    async with cluster.node("one") as store:
        retention = store._parts.retention
        retention._limits = Retention(days=1)
        claim = await claimed(store, JobSpec(command="true"))
        assert await store.finish(claim.job_id, "t", ended(0, completed=now_ms()), *NOTHING)
        assert await retention.remove_oldest() == 0
        retention._now = lambda: now_ms() + 60 * 86_400_000
        assert await retention.remove_oldest() == 0
        retention._limits = Retention(jobs=0)  # what exceeds another limit goes
        assert await retention.remove_oldest() == 1


DAY = 86_400_000


async def ended_at(store: PostgresStore, completed: int) -> int:
    """Add a job that has ended at this time, as its host says; return its id."""
    claim = await claimed(store, JobSpec(command="true"))
    assert await store.finish(claim.job_id, "t", ended(0, completed=completed), *NOTHING)
    return int(claim.job_id)


@pytest.mark.heavy
async def test_a_clock_that_is_ahead_at_the_start_removes_nothing(cluster: Cluster) -> None:
    """A node that is started then believes what others have seen to pass, until that has been so for a day."""
    async with cluster.node("one") as store:
        retention = store._parts.retention
        retention._limits = Retention(days=1)
        await ended_at(store, now_ms())
        assert await retention.remove_oldest() == 0
    # As another host, or in another boot, sees it.
    cluster.execute("UPDATE meta SET value = replace(value, %s, 'another') WHERE key = 'clock'", boot_id())
    async with cluster.node("two") as store:
        retention = store._parts.retention
        retention._limits = Retention(days=1)
        retention._now = lambda: now_ms() + 60 * DAY
        assert await retention.remove_oldest() == 0


async def test_time_that_another_node_has_seen_to_pass_counts(cluster: Cluster) -> None:
    """What this one has not seen itself, as it was not there or doubts the clock, is in the history."""
    async with cluster.node("one") as store:
        retention = store._parts.retention
        retention._limits = Retention(days=1)
        await ended_at(store, now_ms())
        assert await retention.remove_oldest() == 0
        retention._now = lambda: now_ms() + 2 * DAY
        assert await retention.remove_oldest() == 0
        mark = ClockMark("another", 0, now_ms() + 2 * DAY, now_ms() + 2 * DAY)
        cluster.execute("UPDATE meta SET value = %s WHERE key = 'clock'", mark.format())
        assert await retention.remove_oldest() == 1


async def test_an_end_from_a_host_whose_clock_is_far_behind_is_not_old(cluster: Cluster) -> None:
    """A job is no older than its acceptance; those that are too old are removed, also behind it."""
    async with cluster.node("one") as store:
        retention = store._parts.retention
        assert await retention.remove_oldest() == 0  # since then it knows the time
        young = await ended_at(store, now_ms() - 50 * DAY)
        old = await ended_at(store, now_ms() - 40 * DAY)
        cluster.execute("UPDATE jobs SET created = %s WHERE id = %s", now_ms() - 41 * DAY, old)
        retention._limits = Retention(days=30)
        assert await retention.remove_oldest() == 1
        assert [job_id for (job_id,) in cluster.execute("SELECT id FROM jobs")] == [young]
        retention._limits = Retention(jobs=0)
        assert await retention.remove_oldest() == 1


@pytest.mark.heavy
async def test_a_host_that_is_gone_is_noticed_though_the_clock_was_set_back(tmp_path: Path) -> None:
    """Its lease is of the future then: what counts is that it is not renewed, for its jobs and for its name."""
    with several_nodes.cluster(tmp_path, lease=1.0, lost_after=2.0) as cluster:
        async with cluster.node("two") as two:
            async with cluster.node("one") as one:
                claim = await claimed(one, JobSpec(command="true"))
            cluster.execute("UPDATE hosts SET seen = clock_timestamp() + interval '3 h' WHERE name = 'one'")

            async def is_away() -> bool:
                return [host.reachable for host in await two.hosts.list()] == [False, True]

            await until(is_away)

            async def is_lost() -> bool:
                return bool((await two.job(claim.job_id)).done)

            await until(is_lost)
            async with asyncio.timeout(20), cluster.node("one", directory="elsewhere") as another:
                assert [host.reachable for host in await another.hosts.list()] == [True, True]
