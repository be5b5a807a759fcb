"""Reading output: from a slot while it is written, from files, from the row; whole, in part, and damaged."""

import ast
import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from shellrunner.errors import ResultGone
from shellrunner.keeper.recorder import Recorder
from shellrunner.keeper.slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY, IndexEntry
from shellrunner.model import Stream, Volume
from shellrunner.store import Extent, Output, output
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import NOTHING, ended, opened, running
from tests.support.simulated_keeper import SimulatedKeeper

STREAMS = (Stream.STDOUT, Stream.STDERR)
Pieces = Sequence[tuple[int, bytes]]


def pieces(seed: int, count: int, most: int) -> list[tuple[int, bytes]]:
    chance = random.Random(seed)
    return [(chance.randrange(2), chance.randbytes(chance.randint(1, most))) for _ in range(count)]


def store_all(recorder: Recorder, written: Pieces) -> None:
    for stream, data in written:
        recorder.store(stream, data)


async def all_of(output: Output, limit: int = 1 << 16) -> list[Extent]:
    found: list[Extent] = []
    position = 0
    while extents := await output.read(position, limit):
        assert extents[0].position == position
        found += extents
        position = extents[-1].position + len(extents[-1].data)
    return found


async def is_all_of(output: Output, written: Pieces) -> None:
    """Check that an output agrees with what was written: in arrival order, by stream, from any offset."""
    arrived = b"".join(data for _, data in written)
    which = b"".join(bytes([stream]) * len(data) for stream, data in written)
    own = [b"".join(data for stream, data in written if stream == number) for number in range(2)]
    assert output.volume == Volume(len(own[0]), len(own[1]))
    counts = [0, 0]
    for extent in await all_of(output, 50_000):
        number, end = STREAMS.index(extent.stream), extent.position + len(extent.data)
        assert extent.data == arrived[extent.position : end]
        assert set(which[extent.position : end]) == {number}
        assert extent.offset == counts[number]
        counts[number] += len(extent.data)
    assert counts == [len(own[0]), len(own[1])]
    assert output.read_both(1 << 40) in (None, tuple(own))
    chance = random.Random(1)
    for number, stream in enumerate(STREAMS):
        got = b""
        while part := await output.read_stream(stream, len(got), 70_000):
            got += part
        assert got == own[number]
        for _ in range(20):
            offset = chance.randint(0, len(own[number]))
            part = await output.read_stream(stream, offset, 100)
            assert own[number][offset:].startswith(part)
            assert bool(part) == (offset < len(own[number]))
            position = chance.randint(0, len(arrived))
            assert await output.offset_of(stream, position) == which[:position].count(number)
    for _ in range(20):
        position = chance.randint(0, len(arrived))
        extents = await output.read(position, 100)
        part = b"".join(extent.data for extent in extents)
        assert len(part) <= 100
        assert arrived[position:].startswith(part)
        assert bool(part) == (position < len(arrived))


async def finished(store: SqliteStore, keeper: SimulatedKeeper, job: int, token: str) -> Output:
    assert await store.finish(job, token, ended(), *keeper.record(job, token))
    return await store.output(job)


SHAPES = {
    "nothing": [],
    "one byte": [(1, b"x")],
    "fits the slot": pieces(1, 100, 500),
    "fills the slot to the byte": [(0, bytes(DATA_CAPACITY - 1)), (1, b"!")],
    "one byte more than the slot": [(0, bytes(DATA_CAPACITY)), (1, b"!")],
    "a piece across the slot's end": [(0, bytes(DATA_CAPACITY - 3)), (1, b"abcdefg"), (0, b"z")],
    "more data than the slot": pieces(2, 60, 20_000),
    "more entries than the slot": pieces(3, 3000, 3),
    "more of both": pieces(4, 2500, 400),
    "one stream far ahead of the other": [(1, b"a"), *[(0, bytes([n % 251]) * 9000) for n in range(300)], (1, b"b")],
}


@pytest.mark.sqlite
@pytest.mark.parametrize("shape", ["nothing", "one byte", "fits the slot", "fills the slot to the byte"])
async def test_both_streams_of_an_output_in_its_row_are_read_at_once(tmp_path: Path, shape: str) -> None:
    """As a whole if neither has more bytes than wanted, and not if the row was damaged."""
    own = tuple(b"".join(data for stream, data in SHAPES[shape] if stream == number) for number in range(2))
    longest = max(map(len, own))
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            store_all(keeper.begin(claim.job_id, "t"), SHAPES[shape])
            assert (await store.output(claim.job_id)).read_both(longest) is None, "it may still grow"
            done = await finished(store, keeper, claim.job_id, "t")
        assert (done.read_both(longest), done.read_both(longest - 1)) == (own, None)
        for damage in (
            "entries = substr(entries, 33)",
            "entries = CAST(zeroblob(64) || entries AS BLOB)",
            "data = substr(data, 2)",
        ):
            with sqlite3.connect(tmp_path / "history.db") as db:
                db.execute(f"UPDATE outputs SET {damage}")
            assert (await store.output(claim.job_id)).read_both(longest) in (None, own)
        assert (await store.output(claim.job_id)).read_both(longest) == (None if SHAPES[shape] else own)


@pytest.mark.heavy
@pytest.mark.parametrize("shape", SHAPES)
async def test_output_is_what_was_written(tmp_path: Path, shape: str) -> None:
    """While it runs, when it is done, and after a restart, every byte is at its place."""
    written = SHAPES[shape]
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(claim.job_id, "t")
            store_all(recorder, written)
            recorder.close()
            await is_all_of(await store.output(claim.job_id), written)
            await is_all_of(await finished(store, keeper, claim.job_id, "t"), written)
    async with opened(tmp_path) as store:
        await is_all_of(await store.output(claim.job_id), written)


async def test_a_snapshot_stays_readable_while_the_job_goes_on_and_after_it_was_finished(tmp_path: Path) -> None:
    """A snapshot reads the same bytes after more were written, and after its slot was reused by other jobs."""
    written, more = pieces(5, 30, 300), pieces(6, 30, 300)
    async with opened(tmp_path) as store:
        with SimulatedKeeper(tmp_path) as keeper:
            first = await running(store, "t1")
            recorder = keeper.begin(first.job_id, "t1")
            store_all(recorder, written)
            early = await store.output(first.job_id)
            store_all(recorder, more)
            await is_all_of(early, written)
            assert await store.finish(first.job_id, "t1", ended(), *keeper.record(first.job_id, "t1"))
            for token in ("t2", "t3"):
                other = await running(store, token)
                store_all(keeper.begin(other.job_id, token), pieces(7, 40, 400))
            await is_all_of(early, written)
            await is_all_of(await store.output(first.job_id), [*written, *more])
            await store.delete_result(first.job_id)
            with pytest.raises(ResultGone):
                await early.read(0, 10)


@pytest.mark.heavy
async def test_reading_while_a_keeper_writes_gives_a_true_beginning_at_every_moment(tmp_path: Path) -> None:
    """While a keeper writes, every snapshot is a prefix of what was written, and never shorter than the last one."""
    written = pieces(8, 4000, 200)
    arrived = b"".join(data for _, data in written)
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(claim.job_id, "t")
            writing = asyncio.create_task(asyncio.to_thread(store_all, recorder, written))
            seen, looks = 0, 0
            while seen < len(arrived):
                await asyncio.sleep(0)  # a look into a slot never gives the loop away by itself
                output = await store.output(claim.job_id)
                assert output.volume.stored >= seen
                extents = await output.read(seen, 1 << 20)
                got = b"".join(extent.data for extent in extents)
                assert got == arrived[seen : seen + len(got)]
                assert bool(got) == (seen < output.volume.stored)
                seen += len(got)
                looks += 1
            await writing
            recorder.close()
            assert looks > 3


async def test_a_job_of_which_nothing_was_started_has_no_output(tmp_path: Path) -> None:
    """Without a slot, with one of another token, or still queued: the output is empty."""
    async with opened(tmp_path) as store:
        claim = await running(store, "mine")
        assert (await store.output(claim.job_id)).volume == Volume()
        with SimulatedKeeper(tmp_path) as keeper:
            keeper.begin(claim.job_id, "another").store(0, b"not this one's")
            output = await store.output(claim.job_id)
            assert output.volume == Volume()
            assert not await output.read(0, 100)
        await store.requeue(claim.job_id, "mine")
        assert (await store.output(claim.job_id)).volume == Volume()


@pytest.mark.heavy
async def test_the_end_of_a_long_output_costs_what_its_beginning_costs(tmp_path: Path) -> None:
    """With 40,000 index entries, reading the last bytes takes no longer than a few times reading the first."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(claim.job_id, "t")
            store_all(recorder, [(n % 2, b"0123456789") for n in range(40_000)])
            recorder.close()
            output = await finished(store, keeper, claim.job_id, "t")

        async def cost(offset: int) -> float:
            best = 1.0
            for _ in range(20):
                began = time.perf_counter()
                assert await output.read_stream(Stream.STDERR, offset, 10) == b"0123456789"
                best = min(best, time.perf_counter() - began)
            return best

        assert await cost(199_990) < 10 * await cost(0) + 0.002


@pytest.mark.heavy
@pytest.mark.sqlite
@pytest.mark.parametrize("kind", ["out", "idx"])
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "torn", "garbage", "one entry", "directory", "pipe"])
async def test_s7_damaged_files_give_fewer_bytes_never_false_ones(tmp_path: Path, kind: str, damage: str) -> None:
    """S7: with any damage to the spill files, what is read is correct and in order, and the rest is left out."""
    written = [(number % 2, bytes([65 + number % 26]) * 100) for number in range(2000)]
    arrived = b"".join(data for _, data in written)
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(claim.job_id, "t")
            store_all(recorder, written)
            recorder.close()
            output = await finished(store, keeper, claim.job_id, "t")
        (path,) = (tmp_path / "runs").glob(f"*.{kind}")
        whole = path.read_bytes()
        path.unlink()
        if damage == "directory":
            path.mkdir()
        elif damage == "pipe":
            os.mkfifo(path)
        elif damage != "missing":
            at = ENTRY_SIZE * 100
            content = {
                "empty": b"",
                "short": whole[:at],
                "torn": whole[: at + 7],
                # Another stream than was written: the positions fit, the counts do not.
                "one entry": whole[:at] + IndexEntry(61_200, 1, 30_600, 0).pack() + whole[at + ENTRY_SIZE :],
            }
            path.write_bytes(content.get(damage, random.Random(0).randbytes(len(whole))))
        got = await all_of(output)
        read = b"".join(extent.data for extent in got)
        # Where the last entry in the slot is, and so the end of the extent before it, the first in the file confirms.
        assert len(read) >= (INDEX_CAPACITY - 2) * 100
        if kind == "idx" or damage not in ("garbage", "one entry"):  # nothing vouches for the data itself
            assert read == arrived[: len(read)]
            assert len(read) < len(arrived)
        for extent in got:
            assert extent.stream == STREAMS[extent.position // 100 % 2]
        for stream in STREAMS:
            await output.read_stream(stream, 0, 1 << 20)
            await output.read_stream(stream, 99_990, 1 << 20)
            await output.offset_of(stream, 199_990)


async def test_s10_a_result_can_be_read_again_and_after_a_restart(tmp_path: Path) -> None:
    """S10: a second read, two concurrent readers and a new process all read the same bytes."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            keeper.begin(claim.job_id, "t").store(0, "привет\n".encode())
            output = await finished(store, keeper, claim.job_id, "t")
        again = await store.output(claim.job_id)
        answers = await asyncio.gather(*(each.read_stream(Stream.STDOUT, 0, 99) for each in (output, again, output)))
        assert set(answers) == {"привет\n".encode()}
    async with opened(tmp_path) as store:
        output = await store.output(claim.job_id)
        assert await output.read_stream(Stream.STDOUT, 0, 99) == "привет\n".encode()


@pytest.mark.sqlite  # elsewhere no file outlives its job's end
async def test_deleting_removes_the_files(tmp_path: Path) -> None:
    """The spill files of deleted jobs and deleted results are removed by the time the store is closed."""
    async with opened(tmp_path) as store:
        for number in range(2):
            claim = await running(store, f"t{number}", keeper=number)
            with SimulatedKeeper(tmp_path, number) as keeper:
                recorder = keeper.begin(claim.job_id, claim.token)
                store_all(recorder, pieces(9, 2000, 100))
                recorder.close()
                await finished(store, keeper, claim.job_id, claim.token)
        assert len(list((tmp_path / "runs").iterdir())) == 4
        await store.delete_job(1)
        await store.delete_result(2)
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.sqlite
async def test_files_of_earlier_versions_have_no_token(tmp_path: Path) -> None:
    """A spill file that a keeper of an earlier version wrote is read, and removed with its job."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(claim.job_id, "t")
            store_all(recorder, pieces(9, 2000, 100))
            recorder.close()
            await finished(store, keeper, claim.job_id, "t")
        before = await all_of(await store.output(claim.job_id))
        for path in (tmp_path / "runs").iterdir():
            path.rename(path.with_name(f"{claim.job_id}{path.suffix}"))
    with sqlite3.connect(tmp_path / "history.db") as db:
        db.execute("UPDATE jobs SET token = NULL")
    db.close()
    async with opened(tmp_path) as store:
        assert await all_of(await store.output(claim.job_id)) == before
        await store.delete_job(claim.job_id)
    assert not list((tmp_path / "runs").iterdir())


async def test_an_output_without_bytes_is_no_result_gone(tmp_path: Path) -> None:
    """A job that wrote nothing has an empty output, not a deleted one."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        await store.finish(claim.job_id, "t", ended(), *NOTHING)
        output = await store.output(claim.job_id)
        assert (output.volume, list(await output.read(0, 10))) == (Volume(), [])


@pytest.mark.parametrize("module", ["location", "reader", "index", "joined"])
def test_only_local_storage_knows_the_state_directory(module: str) -> None:
    """The modules that locate and read output import neither files nor slots: another host's storage can be added."""
    tree = ast.parse((Path(output.__path__[0]) / f"{module}.py").read_text())
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    files = {"os", "pathlib.Path", "shellrunner.keeper.slot.SlotReader", "shellrunner.keeper.slot.slot_name"}
    ours = {
        name
        for name in names
        if name.startswith(("shellrunner.store.output.local", "shellrunner.store.output.spill"))
    }
    assert names.isdisjoint(files)
    assert ours == set()
