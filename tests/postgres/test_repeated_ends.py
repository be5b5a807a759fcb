"""Ends that are reported again, as their commit was not answered: each counts for its own attempt, and once."""

import asyncio
from typing import Any

import pytest

from shellrunner.errors import OutcomeUnknown
from shellrunner.model import Claim, Done, End, Ending, JobSpec, Running, Volume
from shellrunner.store import Head
from shellrunner.store.postgres.store import PostgresStore
from tests.support.nodes import Cluster

TIMEOUT = 20.0
SPEC = JobSpec.model_validate({"command": "false", "retries": {"max": 2}})
FIRST = End(Ending.EXITED, 2000, exit_code=3, started=1000, duration=0.5)
LAST = End(Ending.EXITED, 4000, exit_code=0, started=3000, duration=0.25)
FIGURES = """SELECT (SELECT count(*) FROM attempts), (SELECT sum(waiting + queued + running) FROM counts),
    (SELECT sum(jobs) FROM sizes), (SELECT sum(bytes) FROM sizes)"""
# The connection is ended while it commits the end of an attempt: it has had no effect.
UNANSWERED = """CREATE FUNCTION end_connection() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER end_connection AFTER INSERT ON attempts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION end_connection()"""


async def claim(store: PostgresStore, token: str) -> Claim:
    """Claim a job under this token."""
    return await asyncio.wait_for(store.claim(1, token), TIMEOUT)


def first_end(store: PostgresStore, job_id: int, end: End = FIRST, **more: Any) -> "asyncio.Future[bool]":
    """Report the end of the first attempt, after which the second one follows at once."""
    return store.finish(job_id, "t", end, Volume(2, 1), Head(b"hi\n", b""), next_attempt_at=0, **more)


@pytest.mark.heavy
@pytest.mark.parametrize("other", ["begins", "ends", "ends in the same way", "is lost"])
async def test_an_end_reported_again_after_the_next_attempt_is_known(cluster: Cluster, other: str) -> None:
    """It changes neither the attempt that runs, nor the job's result; another end under its claim is refused."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        await claim(one, "t")
        assert await first_end(one, job.id)
        assert (await claim(one, "u")).attempt == 2
        ends = {"ends": LAST, "ends in the same way": FIRST, "is lost": End(Ending.LOST, 4000, detail="gone")}
        if (end := ends.get(other)) is not None:
            assert await one.finish(job.id, "u", end, Volume(1, 0), Head(b"x", b""))
        before, phase = cluster.execute(FIGURES), (await one.job(job.id)).phase
        assert await first_end(one, job.id)
        assert not await first_end(one, job.id, End(Ending.EXITED, 2000, exit_code=4, started=1000, duration=0.5))
        assert cluster.execute(FIGURES) == before
        assert (await one.job(job.id)).phase == phase
        assert (await one.attempt(job.id, 1)).end == FIRST
        if end is None:
            assert isinstance(phase, Running)
            assert await one.finish(job.id, "u", LAST, Volume(), Head())
        else:
            assert isinstance(phase, Done)
            assert (phase.end.ending, phase.found) == (end.ending, None)


async def test_a_lost_attempt_is_not_taken_for_an_earlier_one_that_ended_alike(cluster: Cluster) -> None:
    """What its witness reports later is added to it, though the first attempt has the same code and time."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        await claim(one, "t")
        assert await first_end(one, job.id)
        await claim(one, "u")
        assert await one.finish(job.id, "u", End(Ending.LOST, 4000, detail="gone"), Volume(), Head())
        assert await one.finish(job.id, "u", FIRST, Volume(), Head())
        phase = (await one.job(job.id)).phase
        assert isinstance(phase, Done)
        assert phase.found is not None
        assert (await one.attempt(job.id, 1)).found is None


@pytest.mark.heavy
async def test_an_end_whose_commit_had_no_effect_is_recorded_when_it_is_reported_again(cluster: Cluster) -> None:
    """Whether it had is not known first; then the next attempt follows, once."""
    async with cluster.node("a") as one:
        job = await one.add(SPEC)
        await claim(one, "t")
        cluster.execute(UNANSWERED)
        with pytest.raises(OutcomeUnknown):
            await first_end(one, job.id)
        cluster.execute("DROP TRIGGER end_connection ON attempts")
        assert await first_end(one, job.id)
        assert await first_end(one, job.id)
        assert (await claim(one, "u")).attempt == 2
        assert cluster.execute(FIGURES)[0][:2] == (1, 1)
