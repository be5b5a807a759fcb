"""The submitter of a job and the user that it runs as: stored with it, and never lost on its way."""

import asyncio
from pathlib import Path

import pytest

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
        assert {(known.submitter, known.run_as) for known in page.jobs} == {("token:ci", "nobody")}
        assert (await store.request_cancel(waiting.id)).submitter == "token:ci"


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
