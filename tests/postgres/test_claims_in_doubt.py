"""Claims of which no keeper is given anything: none of them stays, whatever fails meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from shellrunner.errors import OutcomeUnknown, StoreUnavailable
from shellrunner.model import JobSpec
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.postgres_db import PostgresDb
from shellrunner.store.postgres.store import PostgresStore
from shellrunner.store.units import lifecycle
from tests.support.histories import SPEC
from tests.support.nodes import Cluster
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)
_TIMEOUT = 20.0


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[PostgresStore]:
    """Yield a node."""
    async with cluster.node("one") as opened:
        yield opened


@pytest.mark.heavy
async def test_a_claim_is_put_back_although_the_database_was_away(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller is gone and the first attempt to put it back fails: soon another keeper gets the job."""
    requeue, failures = lifecycle.requeue, [psycopg.OperationalError("gone"), psycopg.OperationalError("still gone")]

    def requeue_later(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return requeue(*arguments)

    job = await store.add(SPEC)
    claim = await asyncio.wait_for(store.claim(1, "t"), _TIMEOUT)
    monkeypatch.setattr(lifecycle, "requeue", requeue_later)
    store._parts.claims.put_back(claim)
    assert (await asyncio.wait_for(store.claim(2, "u"), _TIMEOUT)).job_id == job.id
    assert not failures


async def test_a_claim_of_a_batch_that_is_run_one_by_one_is_in_doubt_too(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of one of its items takes effect without an answer: its job is claimed again, and once."""
    commit: Any = PostgresDb.commit
    unanswered: list[str] = []

    def lose_answer(self: Any, *arguments: Any) -> Any:
        result = commit(self, *arguments)
        if not unanswered:
            (is_there,) = self.execute("SELECT count(*) FROM jobs WHERE state = 'running'").fetchone()
            if is_there:
                unanswered.append(result)
                self._connection.close()
                raise psycopg.OperationalError("the connection was lost")
        return result

    def bug(_: Db) -> None:
        raise ZeroDivisionError

    waiting = asyncio.ensure_future(store.claim(1, "t"))
    await store.check()
    monkeypatch.setattr(PostgresDb, "commit", lose_answer)
    doubtful, broken = await asyncio.gather(store.add(SPEC), store._engine.write(bug), return_exceptions=True)
    assert isinstance(doubtful, OutcomeUnknown)
    assert isinstance(broken, ZeroDivisionError)
    claims = [await asyncio.wait_for(waiting, _TIMEOUT)] if waiting.done() else []
    other = await store.add(JobSpec(command="true", name="other"))
    if not claims:
        claims.append(await asyncio.wait_for(waiting, _TIMEOUT))
    claims.append(await asyncio.wait_for(store.claim(2, "u"), _TIMEOUT))
    assert len({claim.job_id for claim in claims}) == 2
    assert other.id in {claim.job_id for claim in claims}
    assert {claim.job_id: claim.token for claim in await store.running()} == {
        claim.job_id: claim.token for claim in claims
    }


async def test_one_keeper_gets_one_job_of_a_batch_that_is_run_one_by_one(store: PostgresStore) -> None:
    """Each of its items is a transaction: what a keeper has got in one, it does not get in the next."""

    def bug(_: Db) -> None:
        raise ZeroDivisionError

    waiting = asyncio.ensure_future(store.claim(1, "t"))
    await store.check()
    adds = [store.add(SPEC) for _ in range(4)]
    jobs = await asyncio.gather(*adds, store._engine.write(bug), return_exceptions=True)
    claim = await asyncio.wait_for(waiting, _TIMEOUT)
    states = [job.state for job in jobs if job is not None and not isinstance(job, BaseException)]
    assert sorted(states) == ["queued", "queued", "queued", "running"]
    assert [each.job_id for each in await store.running()] == [claim.job_id]


async def test_a_transaction_that_was_rolled_back_is_not_called_committed(store: PostgresStore) -> None:
    """A unit passes over the error of a statement: PostgreSQL answers its COMMIT with a rollback."""

    def careless(db: Db) -> str:
        try:
            db.execute("SELECT 1 / 0")
        except psycopg.Error:
            return "done"
        return "not reached"

    with pytest.raises(StoreUnavailable, match="rolled back"):
        await store._engine.write(careless)
    await until(lambda: store._engine.refusal() is not None, what="it is known that a write has failed")
    await store.check()
