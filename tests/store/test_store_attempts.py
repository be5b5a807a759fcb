"""Several attempts of a job as one output, and each alone: while they run, between them, and when they are over."""

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shellrunner.errors import NoResultYet, NoSuchAttempt, NoSuchJob, ResultGone
from shellrunner.keeper.slot import DATA_CAPACITY
from shellrunner.model import Done, End, Ending, JobSpec, State, Stream, Volume
from shellrunner.store import Output
from shellrunner.store.sqlite.store import SqliteStore
from tests.store.test_store_output import Pieces, all_of, is_all_of, pieces, store_all
from tests.support.histories import ended, opened, running
from tests.support.simulated_keeper import SimulatedKeeper

# The delay is what `NEVER` may be cut to: see `clock_marks.limit_delays`.
RETRIED = JobSpec.model_validate({"command": "false", "retries": {"max": 1000, "delay": 3600}})
AT_ONCE, NEVER = 0, 10**17  # when the next attempt is due
SHAPES: list[Pieces] = [
    pieces(1, 30, 300),
    [(0, bytes(DATA_CAPACITY)), (1, b"over the slot"), (0, bytes(100_000))],
    [],
    pieces(2, 1500, 3),  # more entries than the slot has room for
    [(1, b"stderr alone")],
    pieces(3, 1000, 200),
]


def up_to(number: int) -> Pieces:
    """Return what the attempts up to this one write."""
    return [piece for shape in SHAPES[:number] for piece in shape]


async def attempt(
    store: SqliteStore,
    keeper: SimulatedKeeper,
    number: int,
    written: Pieces,
    *,
    then: int | None = AT_ONCE,
    limit: int = 1 << 40,
) -> None:
    """Have the job's next attempt write this, and end."""
    token = f"t{number}"
    claim = await store.claim(keeper.number, token)
    assert claim.attempt == number
    recorder = keeper.begin(claim.job_id, token, limit, number)
    store_all(recorder, written)
    recorder.close()
    volume, head = keeper.record(claim.job_id, token)
    assert await store.finish(claim.job_id, token, ended(1), volume, head, next_attempt_at=then)


@pytest.mark.heavy
async def test_attempts_are_one_output_and_each_is_one_alone(tmp_path: Path) -> None:
    """However much each attempt wrote, all bytes so far are at their positions, in the whole and in each attempt."""
    async with opened(tmp_path) as store:
        job = (await store.add(RETRIED)).id
        early: list[tuple[Output, int]] = []
        with SimulatedKeeper(tmp_path) as keeper:
            for number, written in enumerate(SHAPES, 1):
                claim = await store.claim(1, f"t{number}")
                recorder = keeper.begin(job, f"t{number}", attempt=number)
                half = len(written) // 2
                store_all(recorder, written[:half])
                await is_all_of(await store.output(job), [*up_to(number - 1), *written[:half]])
                await is_all_of(await store.output(job, number), written[:half])
                store_all(recorder, written[half:])
                recorder.close()
                early.append((await store.output(job), number))
                then = AT_ONCE if number < len(SHAPES) else None
                assert claim.attempt == number
                await store.finish(job, claim.token, ended(1), *keeper.record(job, claim.token), next_attempt_at=then)
                await is_all_of(await store.output(job), up_to(number))
            for output, number in early:
                await is_all_of(output, up_to(number))
    async with opened(tmp_path) as store:
        await is_all_of(await store.output(job), up_to(len(SHAPES)))
        for number, written in enumerate(SHAPES, 1):
            output = await store.output(job, number)
            await is_all_of(output, written)
            done = await store.attempt(job, number)
            assert (done.volume, done.end) == (output.volume, ended(1))


@pytest.mark.heavy
async def test_what_was_read_of_an_attempt_stays_when_it_ends_and_its_slot_has_others(tmp_path: Path) -> None:
    """A snapshot of a running attempt reads the same bytes from its row later, whether or not it was the last."""
    first, second, third = (pieces(seed, 40, 400) for seed in (4, 5, 6))
    async with opened(tmp_path) as store:
        job = (await store.add(RETRIED)).id
        with SimulatedKeeper(tmp_path) as keeper, SimulatedKeeper(tmp_path, 2) as other:
            await attempt(store, other, 1, first)
            snapshots = []
            for number, written, then in ((2, second, AT_ONCE), (3, third, None)):
                claim = await store.claim(1, f"t{number}")
                recorder = keeper.begin(job, claim.token, attempt=number)
                store_all(recorder, written[:20])
                snapshots.append((await store.output(job), await store.output(job, number), written[:20]))
                store_all(recorder, written[20:])
                await store.finish(job, claim.token, ended(1), *keeper.record(job, claim.token), next_attempt_at=then)
            for token in ("a", "b"):
                stranger = await running(store, token)
                store_all(keeper.begin(stranger.job_id, token), pieces(7, 50, 500))
            (all_2, only_2, part_2), (all_3, only_3, part_3) = snapshots
            await is_all_of(all_2, [*first, *part_2])
            await is_all_of(only_2, part_2)
            await is_all_of(all_3, [*first, *second, *part_3])
            await is_all_of(only_3, part_3)


async def test_while_it_waits_the_output_so_far_is_there(tmp_path: Path) -> None:
    """Between attempts, also after a restart, all output so far can be read, and dropped bytes add up."""
    async with opened(tmp_path) as store:
        job = (await store.add(RETRIED)).id
        with SimulatedKeeper(tmp_path) as keeper:
            await attempt(store, keeper, 1, [(0, b"12345"), (1, b"67")], limit=4)
            await attempt(store, keeper, 2, [(1, b"abcde")], limit=3, then=NEVER)
    async with opened(tmp_path) as store:
        assert (await store.job(job)).state is State.WAITING
        output = await store.output(job)
        assert output.volume == Volume(4, 3, 1, 4)
        assert b"".join(extent.data for extent in await all_of(output)) == b"1234abc"
        assert (await store.output(job, 3)).volume == Volume()
        with pytest.raises(NoResultYet):
            await store.attempt(job, 3)
        for ask in (store.output, store.attempt):
            with pytest.raises(NoSuchAttempt):
                await ask(job, 4)
        await store.request_cancel(job)
        phase = (await store.job(job)).phase
        assert isinstance(phase, Done)
        assert (phase.end.ending, phase.volume) == (Ending.CANCELLED, Volume())
        assert (await store.output(job)).volume.stored == 7


async def test_a_deleted_result_is_gone_with_all_its_attempts(tmp_path: Path) -> None:
    """After the deletion no attempt can be read, not even by an earlier snapshot, and no file is left."""
    async with opened(tmp_path) as store:
        job = (await store.add(RETRIED)).id
        with SimulatedKeeper(tmp_path) as keeper:
            await attempt(store, keeper, 1, SHAPES[1])
            await attempt(store, keeper, 2, SHAPES[1], then=None)
        early = await store.output(job)
        await store.delete_result(job)
        for number in (None, 1, 2):
            with pytest.raises(ResultGone):
                await store.output(job, number)
        with pytest.raises(ResultGone):
            await early.read(0, 10)
        await store.delete_job(job)
        with pytest.raises(NoSuchJob):
            await store.output(job, 1)
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.sqlite
async def test_a_job_with_one_attempt_costs_one_statement(tmp_path: Path) -> None:
    """The output of a running job is found without a statement, that of one that is done with one."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            keeper.begin(claim.job_id, "t").store(0, b"x")
            seen: list[str] = []
            for reader in store._engine.reads:
                await reader.run_unit(lambda db: cast("Any", db).set_trace_callback(seen.append))
            store._engine.read_at_once(lambda db: cast("Any", db).set_trace_callback(seen.append))
            seen.clear()
            await (await store.output(claim.job_id)).read(0, 10)
            assert seen == []
            await store.finish(claim.job_id, "t", ended(), *keeper.record(claim.job_id, "t"))
            for number in (None, 1):
                seen.clear()
                output = await store.output(claim.job_id, number)
                assert await output.read_stream(Stream.STDOUT, 0, 10) == b"x"
                assert len([line for line in seen if line.startswith("SELECT")]) == 1


written = st.lists(st.tuples(st.integers(0, 1), st.binary(min_size=1, max_size=20)), max_size=6)
bulky = st.builds(
    lambda stream, size, rest: [(stream, b"\xd0" * size), *rest],
    st.integers(0, 1),
    st.integers(DATA_CAPACITY - 2, DATA_CAPACITY + 70_000),
    written,
)
attempts = st.lists(st.one_of(written, written, bulky), min_size=1, max_size=6)


@pytest.mark.heavy
@pytest.mark.sqlite
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(attempts, st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_attempts_read_as_what_they_wrote_one_after_another(
    made: list[list[tuple[int, bytes]]], over: int, chance: random.Random
) -> None:
    """Whatever the attempts wrote, reading from any position reads their concatenation."""
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_compare(Path(directory), made, over, chance))


async def _compare(path: Path, made: list[list[tuple[int, bytes]]], over: int, chance: random.Random) -> None:
    over = min(over, len(made))
    async with opened(path) as store:
        job = (await store.add(RETRIED)).id
        with SimulatedKeeper(path) as keeper:
            for number, each in enumerate(made[:over], 1):
                await attempt(store, keeper, number, each, then=AT_ONCE if number < len(made) else None)
            seen = [piece for each in made[:over] for piece in each]
            if over < len(made):  # one runs, and is in its slot
                await store.claim(1, "last")
                store_all(keeper.begin(job, "last", attempt=over + 1), made[over])
                seen += made[over]
            await _is(await store.output(job), seen, chance)


async def _is(output: Output, seen: list[tuple[int, bytes]], chance: random.Random) -> None:
    arrived = b"".join(data for _, data in seen)
    which = b"".join(bytes([stream]) * len(data) for stream, data in seen)
    own = [b"".join(data for stream, data in seen if stream == number) for number in (0, 1)]
    assert (output.volume.stdout_bytes, output.volume.stderr_bytes) == (len(own[0]), len(own[1]))
    for _ in range(20):
        position, limit = chance.randint(0, len(arrived)), chance.randint(1, 90_000)
        got = await output.read(position, limit)
        assert bool(got) == (position < len(arrived))
        for extent in got:
            assert extent.position == position
            number = int(extent.stream is Stream.STDERR)
            position += len(extent.data)
            assert arrived[extent.position : position] == extent.data
            assert extent.offset == which[: extent.position].count(number)
            assert which[extent.position : position] == bytes([number]) * len(extent.data)
        for number, stream in enumerate(Stream):
            offset = chance.randint(0, len(own[number]))
            part = await output.read_stream(stream, offset, limit)
            assert own[number][offset : offset + limit].startswith(part)
            assert bool(part) == (offset < len(own[number]))
            assert await output.offset_of(stream, position) == which[:position].count(number)


@pytest.mark.heavy
async def test_hundreds_of_attempts_are_found_quickly(tmp_path: Path) -> None:
    """The output of a job with 300 attempts is found, and its end read, in a few milliseconds."""
    async with opened(tmp_path) as store:
        job = (await store.add(RETRIED)).id
        with SimulatedKeeper(tmp_path) as keeper:
            for number in range(1, 301):
                await attempt(store, keeper, number, [(0, b"%03d" % number)], then=AT_ONCE if number < 300 else None)
        loop = asyncio.get_running_loop()
        best = 1.0
        for _ in range(5):
            began = loop.time()
            output = await store.output(job)
            assert await output.read_stream(Stream.STDOUT, 897, 9) == b"300"
            best = min(best, loop.time() - began)
        assert best < 0.02
        assert b"".join([e.data for e in await all_of(output)]) == b"".join(b"%03d" % n for n in range(1, 301))


async def test_the_next_attempt_is_queued_when_it_is_due(tmp_path: Path) -> None:
    """An attempt that is due later is queued without a request, and its output follows the first one's."""
    async with opened(tmp_path) as store:
        job = (await store.add(RETRIED)).id
        with SimulatedKeeper(tmp_path) as keeper:
            claim = await store.claim(1, "t1")
            store_all(keeper.begin(job, "t1"), [(0, b"one ")])
            end = End(Ending.EXITED, claim.claimed, exit_code=1)
            await store.finish(job, "t1", end, *keeper.record(job, "t1"), next_attempt_at=claim.claimed + 50)
            await attempt(store, keeper, 2, [(0, b"two")], then=None)
            output = await store.output(job)
            assert b"".join(extent.data for extent in await all_of(output)) == b"one two"
