"""Output whose files were cut, lost or damaged: what is read is true, at its true position; the rest is a gap."""

import os
import random
from collections.abc import Callable
from itertools import compress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shellrunner.keeper.slot import ENTRY_SIZE, IndexEntry
from shellrunner.model import Stream
from shellrunner.results import read_whole
from shellrunner.store.output.present import PresentBytes
from tests.support.histories import ended, opened, running
from tests.support.simulated_keeper import SimulatedKeeper
from tests.support.written import Written

Damage = Callable[[Path], None]


def removed(path: Path) -> None:
    path.unlink(missing_ok=True)


def cut(at: int) -> Damage:
    """Return what cuts a file at this share of its size, in thousandths."""

    def damage(path: Path) -> None:
        if path.exists():
            os.truncate(path, path.stat().st_size * at // 1000)

    return damage


def garbage(at: int, seed: int) -> Damage:
    """Return what overwrites some bytes of an index with others."""

    def damage(path: Path) -> None:
        if path.suffix == ".idx" and path.exists() and path.stat().st_size:
            content = bytearray(path.read_bytes())
            begin = len(content) * at // 1001
            chance = random.Random(seed)
            length = chance.choice([1, 8, ENTRY_SIZE, 500])
            replacement = chance.choice([chance.randbytes(length), bytes(length), b"\xff" * length])
            content[begin : begin + length] = replacement[: len(content) - begin]
            path.write_bytes(content)

    return damage


def longer(count: int) -> Damage:
    """Return what appends to an index: entries that say nothing true, and half of one."""

    def damage(path: Path) -> None:
        if path.suffix == ".idx" and path.exists():
            with path.open("ab") as file:
                file.write(IndexEntry(5, 1, 2, 0).pack() * count + b"half")

    return damage


DAMAGE = st.one_of(
    st.just(removed),
    st.builds(cut, st.integers(0, 1000)),
    st.builds(garbage, st.integers(0, 1000), st.integers(0, 10**6)),
    st.builds(longer, st.integers(0, 3)),
)
SIZES = [
    (30, 9000),
    (1500, 3),
    (800, 400),
]  # pieces, and how large: more data than a slot, more entries, more of both
WRITTEN = st.builds(Written, st.integers(0, 10**6), st.sampled_from(SIZES), share=st.sampled_from([0.0, 0.5, 1.0]))


async def check_damage(
    state: Path, written: Written, damages: list[tuple[str, Damage]], when: int, *, ends: bool
) -> None:
    """Damage the files after `when` pieces, let the command go on, and check what is read then, and after its end."""
    state.mkdir()
    async with opened(state) as store:
        claim = await running(store)
        with SimulatedKeeper(state) as keeper:
            recorder = keeper.begin(claim.job_id, claim.token)
            written.store(recorder, 0, when)
            for kind, damage in damages:
                for path in (state / "runs").glob(f"*.{kind}"):
                    damage(path)
            written.store(recorder, when)
            await written.check(await store.output(claim.job_id), thorough=True)
            recorder.close()
            if ends:
                assert await store.finish(
                    claim.job_id, claim.token, ended(), *keeper.record(claim.job_id, claim.token)
                )
        if ends:
            output = await store.output(claim.job_id)
            assert await written.check(output, thorough=True) == await written.check(
                await store.output(claim.job_id), thorough=True
            )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    written=WRITTEN,
    damages=st.lists(st.tuples(st.sampled_from(["out", "idx"]), DAMAGE), max_size=3),
    share=st.sampled_from([0.3, 0.9, 1.0]),
)
@example(written=Written(1, (1500, 3), 0.5), damages=[("idx", longer(1))], share=1.0)
@example(written=Written(1, (800, 400), 0.5), damages=[("idx", longer(3))], share=1.0)
# An entry that seems to be further on: the one before it, of the other stream, seems to reach up to there.
@pytest.mark.heavy
@example(written=Written(0, (1500, 3), 0.5), damages=[("idx", garbage(0, 7129))], share=0.9)
async def test_c6_what_is_delivered_is_true_and_what_is_missing_is_counted(
    tmp_path_factory: pytest.TempPathFactory, written: Written, damages: list[tuple[str, Damage]], share: float
) -> None:
    """C6: with any damage, while the job runs and after it, the answers have true bytes and say where some miss."""
    state = tmp_path_factory.mktemp("damage") / "state"
    await check_damage(state, written, damages, int(len(written.pieces) * share), ends=True)


async def test_c6_one_stream_is_not_read_across_a_gap_that_is_found_meanwhile(tmp_path: Path) -> None:
    """C6: what another reader of the same snapshot finds to be missing ends a read that began before."""
    written = Written(0, (1500, 3), 0.5)
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(claim.job_id, claim.token)
            written.store(recorder)
            recorder.close()
            (path,) = (tmp_path / "runs").glob("*.idx")
            garbage(0, 7129)(path)
            output = await store.output(claim.job_id)
            assert await output.gaps() == []
            present = PresentBytes(output, (), Stream.STDOUT)
            (gap,) = await output.gaps(thorough=True)
            stdout = bytes(compress(written.all, (number == 0 for number in written.who)))
            got = await read_whole(present.read, 0, present.size)
            assert got == stdout[: gap.begin.stdout_bytes]
            assert await present.read(gap.begin.stdout_bytes, 100) == b""
