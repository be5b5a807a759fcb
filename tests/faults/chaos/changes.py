"""What clients change while jobs wait and run: they pause, hold, reorder, and make queues.

None of it changes what a command writes or how it ends, so every check holds all the same.
"""

import asyncio
import random
from collections import Counter

from tests.faults.chaos.requests import Api, Submitted, retrying

_PATCH_TYPE = {"Content-Type": "application/merge-patch+json"}
_QUEUE = "/api/queues/made"


class Changes:
    """Makes changes; an answer that the API does not document for one of them is a violation."""

    def __init__(self, api: Api, chance: random.Random, counts: Counter[str]) -> None:
        """Count what was done in `counts`."""
        self._api, self._chance, self._counts = api, chance, counts

    async def pause(self, job: Submitted, after: float) -> None:
        """Stop the job's processes for a moment, wherever it is by then."""
        await asyncio.sleep(after)
        for verb in ("pause", "resume"):
            status, _, _ = await self._api.persist("POST", f"/api/jobs/{job.job_id}/{verb}")
            self._expect(status, {202, 409} | _gone(job), f"{verb} of job {job.job_id}")
            self._counts["paused jobs"] += (verb, status) == ("pause", 202)
            await asyncio.sleep(after)

    async def hold(self, job: Submitted, after: float) -> None:
        """Hold the job for a moment, if it has not started, and let it start first."""
        held = await self._patch(job, {"held": True})
        self._counts["held"] += held
        await asyncio.sleep(after)
        await self._patch(job, {"held": False, "priority": self._chance.randrange(10)})

    async def change_queues(self) -> None:
        """Make or change a queue, submit nothing to it, and remove it; and change one of the configuration."""
        status, _, _ = await self._api.persist("PUT", _QUEUE, json={"max_running": self._chance.randrange(1, 9)})
        self._expect(status, {200, 201}, "the queue that was made")
        places = self._chance.choice((3, 6, None))
        status, _, _ = await self._api.persist("PUT", "/api/queues/default", json={"max_running": places})
        self._expect(status, {200}, "the default queue")
        status, _, _ = await self._api.persist("DELETE", _QUEUE)
        self._expect(status, {204, 404}, "the queue that was removed")  # 404: this repeats a request
        self._counts["queues changed"] += 1

    async def _patch(self, job: Submitted, patch: dict[str, object]) -> bool:
        path = f"/api/jobs/{job.job_id}"
        for _ in retrying():
            status, content, _ = await self._api.persist("PATCH", path, json=patch, headers=_PATCH_TYPE)
            if status != 409 or content["type"] != "/problems/job-changed":
                self._expect(status, {200, 409} | _gone(job), f"the change of job {job.job_id}")
                return status == 200
        raise AssertionError(f"job {job.job_id} was not changed")

    def _expect(self, status: int, expected: set[int], what: str) -> None:
        if status not in expected:
            self._api.violations.append(f"{what} was answered with {status}")


def _gone(job: Submitted) -> set[int]:
    return {404} if job.plan.may_vanish else set()
