"""Two nodes that do at the same moment what only one of them may do, or what one must see of the other.

Every test runs as many rounds as `--rounds` says: 20 unless it is given, hundreds in .ci/run. What must hold is
counted over all of them; so is that both outcomes of the race have occurred, where there are two.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from shellrunner.clock import now_ms
from shellrunner.errors import NoSuchJob, NotDone, QueueFull, TooManyQueuedJobs
from shellrunner.model import Claim, Job, JobSpec, Queued, Retries, State, Submitter
from shellrunner.store import IdempotencyKey, QueueLimit, Store, SubmitterLimit
from tests.postgres.racing import Nodes, ended_requests
from tests.support.histories import NOTHING, SPEC, ended
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)
_MANY = 6  # jobs of a round


@pytest.mark.heavy
async def test_a_job_that_was_cancelled_before_its_start_is_not_claimed(nodes: Nodes, rounds: int) -> None:
    """Cancel against claim: `cancelled` without a start, or a claim that knows of the request; never both."""
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        jobs = await nodes.add(SPEC, _MANY)
        requests = [nodes.claim(store, 0.004) for store in nodes.both for _ in range(_MANY)]
        answers = await asyncio.gather(*(nodes.soon(nodes.some.request_cancel(job.id)) for job in jobs))
        await nodes.settle()
        await ended_requests(requests)
        claims = nodes.claims_of(jobs)
        for job, answer in zip(jobs, answers, strict=True):
            if answer.state is State.DONE:
                assert claims[job.id] == 0, f"job {job.id} was cancelled, and claimed"
                outcomes["cancelled"] += 1
            elif claims[job.id]:
                assert claims[job.id] == 1
                outcomes["claimed"] += 1
        owners = {claim.job_id: store for store, claim in nodes.claimed}
        for store in nodes.both:
            asked = {claim.job_id for claim in await store.cancelling()}
            assert asked == {job_id for job_id, owner in owners.items() if owner is store}
        await nodes.finish_claimed()
        await nodes.reach(jobs, State.DONE)
    assert outcomes["cancelled"] > 0, outcomes
    assert outcomes["claimed"] > 0, outcomes


async def test_one_key_at_two_nodes_makes_one_job(nodes: Nodes, rounds: int) -> None:
    """One Idempotency-Key at both nodes at once: both answer with the one job, and no other was made."""
    before = await nodes.one.add(SPEC)
    for number in range(rounds):
        keys = [IdempotencyKey("me", f"{number}-{each}", b"digest") for each in range(_MANY)]
        posts = [nodes.soon(store.add(SPEC, key), 0.001) for key in keys for store in nodes.both]
        made = await asyncio.gather(*posts)
        assert [job.id for job in made[::2]] == [job.id for job in made[1::2]]
        assert len({job.id for job in made}) == _MANY
    queues = (await nodes.two.queues()).queues
    assert [each.queued for each in queues] == [1 + rounds * _MANY]
    assert await nodes.states([before]) == {State.QUEUED: 1}


async def test_one_key_at_two_nodes_makes_one_batch(nodes: Nodes, rounds: int) -> None:
    """One Idempotency-Key with several jobs, at both nodes at once: all of them once."""
    for number in range(rounds):
        key = IdempotencyKey("me", str(number), b"digest")
        one, two = await asyncio.gather(*(nodes.soon(store.add_many([SPEC] * 3, key), 0.001) for store in nodes.both))
        assert [job.id for job in one] == [job.id for job in two]
        assert len({job.id for job in one}) == 3
    assert [each.queued for each in (await nodes.one.queues()).queues] == [rounds * 3]


@pytest.mark.parametrize("code", [0, 1])
async def test_no_job_waits_for_one_that_has_ended(nodes: Nodes, rounds: int, code: int) -> None:
    """`after` against an end: what waits for a job that ends at that moment is queued, or skipped if it failed."""
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        first = await nodes.one.add(SPEC)
        claim = await nodes.claim(nodes.one)
        assert claim.job_id == first.id
        ends = nodes.soon(_finish(nodes.one, claim, code))
        spec = JobSpec(command="true", after=(first.id,))
        adds = [nodes.soon(nodes.both[n % 2].add(spec)) for n in range(_MANY)]
        has_ended, made = await asyncio.gather(ends, asyncio.gather(*adds))
        assert has_ended
        outcomes.update(job.state.value for job in made)
        nodes.claimed.clear()
        await nodes.reach(made, State.DONE if code else State.QUEUED)
        if code:
            assert {await nodes.ending(job) for job in made} == {"skipped"}
        else:
            await asyncio.gather(*(nodes.claim(nodes.some) for _ in made))
            assert nodes.claims_of(made) == Counter({job.id: 1 for job in made})
            await nodes.finish_claimed()
    assert outcomes["waiting"] > 0, outcomes
    assert outcomes["done" if code else "queued"] > 0, outcomes


async def _finish(store: Store, claim: Claim, code: int) -> bool:
    return await store.finish(claim.job_id, claim.token, ended(code), *NOTHING)


async def test_two_nodes_queue_a_due_job_once(nodes: Nodes, rounds: int) -> None:
    """Both wake for the jobs whose time has come: each job is claimed once, and none is forgotten."""
    for _ in range(max(1, rounds // 5)):
        due = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat(timespec="milliseconds")
        jobs = await nodes.add(JobSpec(command="true", start_at=due), 2 * _MANY)
        requests = [nodes.claim(store) for store in nodes.both for _ in range(2 * _MANY)]
        await nodes.all_claimed(jobs)
        await nodes.settle()
        assert nodes.claims_of(jobs) == Counter({job.id: 1 for job in jobs})
        await ended_requests(requests)
        await nodes.finish_claimed()
    assert await nodes.one.running() == await nodes.two.running() == []


@pytest.mark.heavy
async def test_another_attempt_is_queued_once(nodes: Nodes, rounds: int) -> None:
    """An attempt that is due at once, after an end at one node, is claimed once, by whichever node is first."""
    spec = JobSpec(command="true", retries=Retries(max=1, delay=0, on=("exited",)))
    for _ in range(rounds):
        (job,) = await nodes.add(spec, 1)
        first = await nodes.claim(nodes.one)
        nodes.claimed.clear()
        requests = [nodes.claim(store) for store in nodes.both]
        assert await nodes.one.finish(job.id, first.token, ended(1), *NOTHING, next_attempt_at=now_ms())
        done, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assert {request.result().job_id for request in done} == {job.id}
        await nodes.settle()
        await ended_requests(requests)
        assert nodes.claims_of([job]) == {job.id: 1}
        await nodes.finish_claimed()
        assert (await nodes.two.attempt(job.id, 2)).end.exit_code == 0


async def test_a_job_that_ends_is_deleted_whole_or_not(nodes: Nodes, rounds: int) -> None:
    """Delete against finish: the deletion is refused while it runs, or the job is gone; its end is recorded once."""
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        (job,) = await nodes.add(SPEC, 1)
        claim = await nodes.claim(nodes.one)
        has_ended, was_deleted = await asyncio.gather(
            nodes.soon(_finish(nodes.one, claim, 0)), nodes.soon(_delete(nodes.two, job))
        )
        nodes.claimed.clear()
        assert has_ended
        outcomes["deleted" if was_deleted else "refused"] += 1
        if was_deleted:
            with pytest.raises(NoSuchJob):
                await nodes.one.job(job.id)
        else:
            assert await nodes.ending(job) == "exited"
    assert outcomes["deleted"] > 0, outcomes
    assert outcomes["refused"] > 0, outcomes


async def _delete(store: Store, job: Job) -> bool:
    try:
        await store.delete_job(job.id)
    except NotDone:
        return False
    return True


async def test_nothing_is_claimed_once_a_pause_has_returned(nodes: Nodes, rounds: int) -> None:
    """Pause against claim: what runs when the pause has returned is all that runs until it is resumed."""
    left = 0
    for _ in range(rounds):
        requests = [nodes.claim(store) for store in nodes.both for _ in range(_MANY)]
        adds = asyncio.gather(*(nodes.soon(store.add(SPEC)) for store in nodes.both * _MANY))
        await nodes.soon(nodes.some.pause("default", paused=True))
        running = await _count(nodes.one, State.RUNNING)
        jobs = await adds
        await nodes.settle()
        await nodes.settle()  # a claim that was under way when the first began
        assert await _count(nodes.one, State.RUNNING) == running
        left += len(jobs) - running
        await nodes.some.pause("default", paused=False)
        await nodes.all_claimed(jobs)
        await ended_requests(requests)
        await nodes.finish_claimed()
    assert left > 0


async def _count(store: Store, state: State, queue: str = "default") -> int:
    """Return how many jobs of a queue are in this state."""
    found = {each.name: each for each in (await store.queues()).queues}[queue]
    return {State.RUNNING: found.running, State.QUEUED: found.queued, State.WAITING: found.waiting}[state]


async def test_no_more_run_than_the_queue_allows(nodes: Nodes, rounds: int) -> None:
    """`max_running` of a queue is exact over both nodes, and its jobs all run in the end."""
    await nodes.queue("narrow", QueueLimit(max_running=3))
    for _ in range(max(1, rounds // 4)):
        most = await _run_all(nodes, JobSpec(command="true", queue="narrow"), None)
        assert most == 3


async def test_no_more_run_than_a_submitter_may(nodes: Nodes, rounds: int) -> None:
    """`max_running` of a submitter is exact over both nodes, and its jobs all run in the end."""
    for store in nodes.both:
        store.limit_submitters({"token:ci": SubmitterLimit(max_running=2)})
    for _ in range(max(1, rounds // 4)):
        most = await _run_all(nodes, SPEC, Submitter("token:ci", None))
        assert most == 2


async def _run_all(nodes: Nodes, spec: JobSpec, by: Submitter | None) -> int:
    """Run jobs at both nodes, each for a moment; return how many ran at once at most."""
    count, running, most, finished = 4 * _MANY, set[int](), 0, list[int]()

    async def keeper(store: Store) -> None:
        nonlocal most
        while True:
            claim = await nodes.claim(store)
            running.add(claim.job_id)
            most = max(most, len(running))
            await asyncio.sleep(nodes.chance.uniform(0, 0.003))
            running.remove(claim.job_id)
            assert await store.finish(claim.job_id, claim.token, ended(), *NOTHING)
            finished.append(claim.job_id)

    keepers = [asyncio.create_task(keeper(store)) for store in nodes.both for _ in range(_MANY)]
    jobs = await asyncio.gather(*(nodes.both[n % 2].add(spec, by=by) for n in range(count)))
    await until(lambda: len(finished) == count, what="all jobs have run")
    await ended_requests(keepers)  # type: ignore[arg-type]
    assert nodes.claims_of(jobs) == Counter({job.id: 1 for job in jobs})
    nodes.claimed.clear()
    await nodes.reach(jobs, State.DONE)
    return most


@pytest.mark.heavy
async def test_no_more_wait_than_the_queue_allows(nodes: Nodes, rounds: int) -> None:
    """`max_queued` of a queue is exact when both nodes accept at once."""
    await nodes.queue("short", QueueLimit(max_queued=5))
    spec = JobSpec(command="true", queue="short")
    for _ in range(rounds):
        accepted = await _add_at_once(nodes, spec, None)
        assert len(accepted) == 5
        await asyncio.gather(*(nodes.some.request_cancel(job.id) for job in accepted))


async def test_no_more_wait_than_a_submitter_may(nodes: Nodes, rounds: int) -> None:
    """`max_queued` of a submitter is exact when both nodes accept at once."""
    by = Submitter("token:ci", None)
    for store in nodes.both:
        store.limit_submitters({"token:ci": SubmitterLimit(max_queued=4)})
    for _ in range(rounds):
        accepted = await _add_at_once(nodes, SPEC, by)
        assert len(accepted) == 4
        await asyncio.gather(*(nodes.some.request_cancel(job.id) for job in accepted))


async def _add_at_once(nodes: Nodes, spec: JobSpec, by: Submitter | None) -> list[Job]:
    """Submit twelve jobs at once; return those that were accepted."""

    async def add(store: Store) -> Job | None:
        try:
            return await store.add(spec, by=by)
        except (QueueFull, TooManyQueuedJobs):
            return None

    return [job for job in await asyncio.gather(*map(add, nodes.both * _MANY)) if job]


async def test_a_removed_queue_has_no_jobs(nodes: Nodes, rounds: int) -> None:
    """Add against the removal of a queue: the job stays and runs, or the queue stays; nothing is stuck."""
    for number in range(max(1, rounds // 4)):
        name = f"made{number}"
        await nodes.queue(name, QueueLimit(max_running=1))
        job, _ = await asyncio.gather(
            nodes.soon(nodes.one.add(JobSpec(command="true", queue=name))), nodes.soon(nodes.two.remove_queue(name)),
            return_exceptions=True,
        )  # fmt: skip
        assert isinstance(job, Job), job
        assert isinstance(job.phase, Queued)
        claim = await asyncio.wait_for(nodes.claim(nodes.two), 10)
        assert claim.job_id == job.id
        await nodes.finish_claimed()
