"""The submitter of a job and the user that it runs as: stored with it, and never lost on its way."""

import asyncio
from pathlib import Path

import pytest

from shellrunner.errors import InvalidJob, NoSuchJob
from shellrunner.model import JobSpec, Retries, Submitter
from shellrunner.store import Filters
from tests.support.histories import NOTHING, SPEC, ended, opened

SUBMITTER = Submitter("token:ci", "nobody")
RETRIED_SPEC = JobSpec(command="true", retries=Retries(max=1))


async def test_job_and_claim_have_the_submitter_and_the_user(tmp_path: Path) -> None:
    """Claimed at once or from the queue, after a restart and for another attempt, the user is the same."""
    async with opened(tmp_path) as store:
        claiming = asyncio.create_task(store.claim(1, "a"))
        await asyncio.sleep(0)
        job, claim = await store.add(SPEC, by=SUBMITTER), await claiming
        assert (job.submitter, job.run_as, claim.run_as) == ("token:ci", "nobody", "nobody")
        queued = await store.add(RETRIED_SPEC, by=SUBMITTER)
        waiting = await store.add(JobSpec(command="true", after=(job.id,)), by=SUBMITTER)
        assert {(known.submitter, known.run_as) for known in (queued, waiting)} == {("token:ci", "nobody")}
        claim = await store.claim(1, "b")
        assert (claim.job_id, claim.run_as) == (queued.id, "nobody")
        await store.finish(queued.id, "b", ended(1), *NOTHING, next_attempt_at=0)
    async with opened(tmp_path) as store:
        claim = await store.claim(1, "c")
        assert (claim.job_id, claim.attempt, claim.run_as) == (queued.id, 2, "nobody")
        assert {known.run_as for known in await store.running()} == {"nobody"}
        page = await store.page(Filters(), (), limit=10)
        assert {(known.job().submitter, known.job().run_as) for known in page.jobs} == {("token:ci", "nobody")}
        assert (await store.request_cancel(waiting.id)).submitter == "token:ci"


async def test_a_command_that_is_only_killed_stays_so(tmp_path: Path) -> None:
    """Claimed at once or from the queue, after a restart and for another attempt; a cancel can only add it."""
    bound = Submitter("token:ci", kill_only=True)
    async with opened(tmp_path) as store:
        claiming = asyncio.create_task(store.claim(1, "a"))
        await asyncio.sleep(0)
        await store.add(SPEC, by=bound)
        assert (await claiming).kill_only
        queued = await store.add(RETRIED_SPEC, by=bound)
        assert (await store.claim(1, "b")).kill_only
        await store.finish(queued.id, "b", ended(1), *NOTHING, next_attempt_at=0)
        free = [await store.add(SPEC, by=SUBMITTER) for _ in range(3)]
    async with opened(tmp_path) as store:
        assert (await store.claim(1, "c")).kill_only
        assert not any([(await store.claim(1, f"d{number}")).kill_only for number in range(3)])
        for job, kills in zip(free, ([False], [True], [True, False]), strict=True):
            for kill_only in kills:
                await store.request_cancel(job.id, kill_only=kill_only)
        assert [claim.kill_only for claim in await store.cancelling()] == [False, True, True]


async def test_a_job_waits_only_for_what_its_submitter_may_see(tmp_path: Path) -> None:
    """For an identity that sees its own jobs only, another's is as unknown as one that does not exist."""
    async with opened(tmp_path) as store:
        other, mine = [await store.add(SPEC, by=Submitter(name)) for name in ("token:other", "token:ci")]
        as_another_user = await store.add(SPEC, by=SUBMITTER)
        blind = Submitter("token:ci", sees_all=False)
        for seen in (other, mine, as_another_user):
            assert (await store.add(JobSpec(command="true", after=(seen.id,)), by=Submitter("token:ci"))).id
        assert (await store.add(JobSpec(command="true", after=(mine.id,)), by=blind)).id
        for unseen in (other.id, as_another_user.id, 999):
            with pytest.raises(InvalidJob) as refused:
                await store.add(JobSpec(command="true", after=(mine.id, unseen)), by=blind)
            assert refused.value.members["errors"] == [
                {"pointer": "#/after/1", "detail": f"there is no job {unseen}"}
            ]


async def test_the_submitter_of_a_job_is_found(tmp_path: Path) -> None:
    """Both of its parts, or none of a job that does not exist."""
    async with opened(tmp_path) as store:
        for by, shown in ((SUBMITTER, ("token:ci", "nobody")), (None, (None, None))):
            assert await store.submitter((await store.add(SPEC, by=by)).id) == shown
        with pytest.raises(NoSuchJob):
            await store.submitter(999)


@pytest.mark.sqlite
async def test_without_a_submitter_or_a_user_there_is_none(tmp_path: Path) -> None:
    """A job without a user of its own has none, and one without a submitter does not get one."""
    async with opened(tmp_path) as store:
        for by, shown in ((Submitter("uid:7"), ("uid:7", None)), (None, (None, None))):
            job = await store.add(SPEC, by=by)
            assert (job.submitter, job.run_as) == shown
            job = await store.job(job.id)
            assert (job.submitter, job.run_as) == shown
            assert (await store.claim(1, f"t{job.id}")).run_as is None
