"""The clients of a round of chaos: they submit, retry, follow, cancel, delete, and note the answers."""

import asyncio
import base64
import itertools
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from tests.faults.chaos.changes import Changes
from tests.faults.chaos.jobs import Plan
from tests.faults.chaos.requests import Api, Rejected, Submitted, Unreachable, retrying
from tests.support import sse


class Clients:
    """Clients that work at once, each on one job after the other."""

    def __init__(self, api: Api, plan: Callable[[int], Plan], is_left: Callable[[int], list[int]], seed: int) -> None:
        """Take plans by number; `is_left(job_id)` looks for processes of a job."""
        self.api, self._plan, self._is_left = api, plan, is_left
        self._chance = random.Random(f"{seed} clients")
        self._numbers = itertools.count()
        self._stopping = asyncio.Event()
        self.submitted: list[Submitted] = []
        self._position: dict[str, str] = {}  # of the last event of all statuses
        self.statuses: dict[int, dict[str, Any]] = {}  # as the stream of all statuses had them last
        self.counts: Counter[str] = Counter()
        self._changes = Changes(api, self._chance, self.counts)

    async def run(self, clients: int, goes_on: Callable[[], bool]) -> None:
        """Let so many clients work while the round goes on, and wait until each has finished its last job."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._work())
            tasks.create_task(self._administrate())
            tasks.create_task(self._watch_statuses())
            while goes_on():
                await asyncio.sleep(0.05)
            self._stopping.set()

    async def _work(self) -> None:
        while not self._stopping.is_set():
            plan = self._plan(next(self._numbers))
            job = await self._submit(plan)
            async with asyncio.TaskGroup() as tasks:
                if plan.follow == "events":
                    tasks.create_task(self._follow_events(job))
                elif plan.follow == "raw":
                    tasks.create_task(self._follow_raw(job))
                if plan.sent:
                    tasks.create_task(self._give_input(job))
                if plan.cancel_after is not None:
                    tasks.create_task(self._cancel(job, plan.cancel_after))
                if plan.pause_after is not None:
                    tasks.create_task(self._changes.pause(job, plan.pause_after))
                if plan.hold_for is not None:
                    tasks.create_task(self._changes.hold(job, plan.hold_for))
                if plan.delete:
                    tasks.create_task(self._delete(job))
                elif not plan.may_vanish and plan.follow is None:
                    tasks.create_task(self._see_end(job))

    # Submissions -----------------------------------------------------------------------------------------------

    async def _submit(self, plan: Plan) -> Submitted:
        spec, after, not_before = dict(plan.spec), list[int](), None
        if plan.needs:
            earlier = [job.job_id for job in self.submitted[-40:] if not job.plan.may_vanish]
            after = sorted(self._chance.sample(earlier, min(len(earlier), plan.needs)))
            spec["after"] = after
        if plan.start_in is not None:
            start = datetime.now(UTC) + timedelta(seconds=plan.start_in)
            spec["start_at"] = start.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            not_before = int(start.timestamp() * 1000)
        headers = {"Idempotency-Key": plan.nonce} | ({"Prefer": "wait=2"} if plan.wait else {})
        in_batch = not plan.wait and self._chance.random() < 0.3
        path, body = ("/api/jobs/batch", {"jobs": [spec]}) if in_batch else ("/api/jobs", spec)
        posts = [self.api.persist("POST", path, json=body, headers=headers) for _ in range(1 + plan.repeat)]
        answers = await asyncio.gather(*posts)
        ids = {_id(status, content, may_be_gone=bool(plan.group)) for status, content, _ in answers}
        if len(ids) != 1:
            self.api.violations.append(f"one idempotency key made the jobs {ids}")
        job = Submitted(plan, ids.pop(), after, not_before)
        job.seen += [content for status, content, _ in answers if status == 200]
        self.submitted.append(job)
        self.counts[plan.kind] += 1
        self.counts["jobs"] += 1
        self.counts["repeated"] += plan.repeat
        self.counts["in a batch"] += in_batch
        return job

    # What a client does with its job -----------------------------------------------------------------------------

    async def _cancel(self, job: Submitted, after: float) -> None:
        await asyncio.sleep(after)
        job.cancelled = True
        status, _, _ = await self.api.persist("POST", f"/api/jobs/{job.job_id}/cancel")
        self._expect(status, {202, 409} | ({404} if job.plan.may_vanish else set()), job, "cancel")
        self.counts["cancelled"] += status == 202

    async def _delete(self, job: Submitted) -> None:
        await self._done(job)
        status, _, _ = await self.api.persist("DELETE", f"/api/jobs/{job.job_id}")
        self._expect(status, {204, 404}, job, "delete")  # 404: an answer was lost, and this repeats the request
        job.deleted = True
        self.counts["deleted"] += 1

    async def _see_end(self, job: Submitted) -> None:
        """Wait until the job is done; then nothing of it runs any more."""
        status = await self._done(job)
        job.seen.append(status)
        if not job.plan.spec.get("leave_children"):
            left = await asyncio.to_thread(self._is_left, job.job_id)
            if left:
                self.api.violations.append(f"job {job.job_id} ({job.plan.kind}) is {status}, but {left} run")
            self.counts["seen to be gone"] += 1

    async def _done(self, job: Submitted) -> Any:
        headers = {"Prefer": "wait=1"}
        for _ in retrying():
            status, content, _ = await self.api.persist("GET", f"/api/statuses/{job.job_id}", headers=headers)
            if status in (303, 404, 410):
                return content
        raise AssertionError(f"job {job.job_id} ({job.plan.kind}) is not done: {content}")

    async def _give_input(self, job: Submitted) -> None:
        data, path, offset = job.plan.sent, f"/api/jobs/{job.job_id}/stdin", 0
        while True:
            chunk = data[offset : offset + self._chance.randrange(1, 60_000)]
            end = "&end=true" if offset + len(chunk) == len(data) else ""
            status, content, _ = await self.api.persist("POST", f"{path}?offset={offset}{end}", data=chunk)
            match status, content["type"] if content else "":
                case 204, _:
                    offset += len(chunk)
                    if end:
                        job.given = offset
                        return
                case 409, "/problems/wrong-offset":
                    offset = content["offset"]
                case 409, "/problems/not-running":
                    _, state, _ = await self.api.persist("GET", f"/api/statuses/{job.job_id}")
                    if state.get("done", True):
                        return
                    await asyncio.sleep(0.02)
                case _:  # it is closed, by a request whose answer was lost, or gone
                    self._expect(status, {404, 409}, job, "stdin")
                    return

    def _expect(self, status: int, expected: set[int], job: Submitted, what: str) -> None:
        if status not in expected:
            self.api.violations.append(f"{what} of job {job.job_id} was answered with {status}")

    # Followers ---------------------------------------------------------------------------------------------------

    async def _follow_events(self, job: Submitted) -> None:
        """Follow the job's events; the client is cut at random moments, and resumes by the id of the last event."""
        position: dict[str, str] = {}
        got = {"stdout": b"", "stderr": b""}
        path = f"/api/statuses/{job.job_id}/events?encoding=base64"
        for _ in retrying():
            try:
                async with (
                    asyncio.timeout(self._chance.choice((0.05, 0.3, 1, 5))),
                    self.api.session.get(self.api.url(path), headers=position) as response,
                ):
                    if response.status != 200:
                        await self._see_refusal(response, f"job {job.job_id}")
                        continue
                    async for event in sse.parse(response.content):
                        if event.id is not None:
                            position = {"Last-Event-ID": event.id}
                        if event.name in got:
                            got[event.name] += base64.b64decode(event.data["base64"])
                        elif event.name == "done":
                            job.events, job.done_event = got, event.data
                            self.counts["followed by events"] += 1
                            return
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                await self._see_cut(error)
        self.api.violations.append(f"a follower of job {job.job_id} did not see its end")

    async def _follow_raw(self, job: Submitted) -> None:
        """Follow the job's plain output; after a cut it goes on with the next byte."""
        path = f"/api/statuses/{job.job_id}/output?follow=true&from="
        for _ in retrying():
            try:
                async with (
                    asyncio.timeout(self._chance.choice((0.1, 1, 5))),
                    self.api.session.get(self.api.url(f"{path}{len(job.followed)}")) as response,
                ):
                    if response.status != 200:
                        await self._see_refusal(response, f"job {job.job_id}")
                        continue
                    async for data in response.content.iter_any():
                        job.followed += data
                    job.saw_end = True
                    self.counts["followed as plain output"] += 1
                    return
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                await self._see_cut(error)
        self.api.violations.append(f"a follower of the output of job {job.job_id} did not see its end")

    async def _watch_statuses(self) -> None:
        """Follow the statuses of all jobs, with random cuts, until the clients end."""
        while not self._stopping.is_set():
            await self._follow_statuses(self._chance.uniform(0.2, 2))

    async def see_all_done(self) -> None:
        """Follow the statuses until each was seen to be done, or the stream has had the time to send it."""
        for _ in range(5):
            await self._follow_statuses(1.0)
            if all(status["done"] for status in self.statuses.values()):
                return

    async def _follow_statuses(self, seconds: float) -> None:
        """Follow for a time, from the last event on; without one, or after `reset`, the list has what was missed."""
        try:
            async with (
                asyncio.timeout(seconds),
                self.api.session.get(self.api.url("/api/statuses/events"), headers=self._position) as response,
            ):
                if response.status != 200:
                    await self._see_refusal(response, "all statuses")
                    return
                if not self._position:
                    await self._read_statuses()
                async for event in sse.parse(response.content):
                    if event.name == "status":
                        self.statuses[event.data["status_id"]] = event.data
                    elif event.name == "deleted":
                        self.statuses.pop(event.data["status_id"], None)
                    elif event.name == "reset":
                        self.counts["resets"] += 1
                        await self._read_statuses()
                    self._position = {"Last-Event-ID": event.id} if event.id is not None else self._position
        except (aiohttp.ClientError, OSError, TimeoutError, Unreachable, Rejected) as error:
            await self._see_cut(error)

    async def _read_statuses(self) -> None:
        path: str | None = "/api/statuses?limit=1000"
        while path:
            _, page, _ = await self.api.request("GET", path)
            self.statuses |= {status["status_id"]: status for status in page["statuses"]}
            path = page["next"]

    async def _see_cut(self, error: Exception) -> None:
        refused = isinstance(error, aiohttp.ClientConnectorError)
        self.counts["refused" if refused else "cut"] += 1
        await asyncio.sleep(0.05 if refused else 0)

    async def _see_refusal(self, response: aiohttp.ClientResponse, what: str) -> None:
        if response.status != 503:
            self.api.violations.append(f"a follower of {what} got {response.status}: {await response.text()}")
        await asyncio.sleep(0.05)

    # Queues and bulk deletion ------------------------------------------------------------------------------------

    async def _administrate(self) -> None:
        """Pause and resume queues, and delete groups of jobs, until the clients end."""
        while not self._stopping.is_set():
            await asyncio.sleep(self._chance.uniform(0.2, 0.8))
            queue = self._chance.choice(("default", "single"))
            await self.api.persist("POST", f"/api/queues/{queue}/pause")
            await asyncio.sleep(self._chance.uniform(0, 0.3))
            await self.api.persist("POST", f"/api/queues/{queue}/resume")
            await self._changes.change_queues()
            await self.delete_group(str(self._chance.randrange(4)))
            self.counts["paused"] += 1

    async def delete_group(self, group: str) -> None:
        """Delete what is done of a group."""
        status, content, _ = await self.api.persist("DELETE", f"/api/jobs?label=group:{group}&confirm=true")
        if status != 200:
            self.api.violations.append(f"the deletion of group {group} was answered with {status}: {content}")
        else:
            self.counts["deleted in bulk"] += content["deleted"]


def _id(status: int, content: Any, *, may_be_gone: bool) -> int:
    if status == 410 and may_be_gone:  # deleted in bulk, before the answer to this repetition
        return int(content["detail"].removeprefix("job ").partition(",")[0])
    assert status in (200, 202), content
    if "jobs" in content:
        (content,) = content["jobs"]
    return int(content["result_id" if status == 200 else "job_id"])
