"""Opening a history that is new, old, damaged, of a newer release, another program's, or was killed at any moment."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shellrunner.errors import StoreUnavailable
from shellrunner.keeper.slot import data_path, index_path
from shellrunner.model import State
from shellrunner.store import Retention
from shellrunner.store.sqlite import main_file, schema
from shellrunner.store.sqlite.composition import open_store
from shellrunner.store.sqlite.effects import generation
from shellrunner.store.state_files import high_water
from tests.support.histories import SPEC, done, everything, opened, running
from tests.support.waiting import until


async def test_a_history_keeps_its_id_and_its_jobs(tmp_path: Path) -> None:
    """The random id is 32 hex digits, differs between histories, and is the same after a restart, as are the jobs."""
    async with opened(tmp_path / "one") as one, opened(tmp_path / "two") as two:
        assert len(bytes.fromhex(one.history_id)) == 16
        assert one.history_id != two.history_id
        job = await one.add(SPEC)
    async with opened(tmp_path / "one") as again:
        assert again.history_id == one.history_id
        assert await again.job(job.id) == job


@pytest.mark.sqlite
async def test_everything_is_for_this_user_alone(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        async with opened(tmp_path / "state") as store:
            await store.add(SPEC)
            paths = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    finally:
        os.umask(before)
    assert {modes.pop(name) for name in ("state", "slots", "runs", "keys")} == {0o700}
    assert set(modes.values()) == {0o600}
    assert {"history.db", "history.db-wal", "ballast"} <= modes.keys()


async def test_an_id_is_never_reused(tmp_path: Path) -> None:
    """After the newest job was deleted and the store was opened again, the next job gets a new id."""
    async with opened(tmp_path) as store:
        job = await done(store)
        await store.delete_job(job.id)
    async with opened(tmp_path) as store:
        assert (await store.add(SPEC)).id == job.id + 1


@pytest.mark.sqlite
@pytest.mark.parametrize("content", [b"garbage " * 1000, b"xy", b"SQLite format 3\0" + b"\xff" * 5000])
async def test_s7_garbage_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    """S7: a history.db that is not a database is refused with its name and what to do, and is not changed."""
    path = tmp_path / "history.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"history\.db cannot be opened.*move it away"):
        async with opened(tmp_path):
            pass
    assert path.read_bytes() == content


@pytest.mark.sqlite
async def test_s7_a_truncated_history_is_refused(tmp_path: Path) -> None:
    """S7: a truncated history is refused when it is opened, not silently replaced by a new one."""
    async with opened(tmp_path) as store:
        for number in range(50):
            await done(store, f"t{number}")
    path = tmp_path / "history.db"
    os.truncate(path, 3 * 4096)
    with pytest.raises(StoreUnavailable, match=r"history\.db"):
        async with opened(tmp_path):
            pass


@pytest.mark.sqlite
async def test_a_history_of_zero_length_is_a_new_one(tmp_path: Path) -> None:
    """An empty history.db becomes a new history."""
    (tmp_path / "history.db").touch()
    async with opened(tmp_path) as store:
        assert (await store.add(SPEC)).id == 1


@pytest.mark.sqlite
async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    """A database with other tables is refused, and not even its journal mode is changed."""
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="another program"):
        async with opened(tmp_path):
            pass
    assert path.read_bytes() == before


@pytest.mark.sqlite
async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A history of a newer release is refused with both versions in the message, and is not changed."""
    async with opened(tmp_path):
        pass
    newer = len(schema.MIGRATIONS) + 1
    with sqlite3.connect(tmp_path / "history.db") as db:
        db.execute(f"PRAGMA user_version={newer}")
    db.close()
    with pytest.raises(StoreUnavailable, match=f"newer shellrunner.*{newer}"):
        async with opened(tmp_path):
            pass
    with sqlite3.connect(tmp_path / "history.db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (newer,)
    db.close()


@pytest.mark.heavy
@pytest.mark.sqlite  # elsewhere a file may be what a keeper that returns has of a lost job
async def test_files_without_a_result_are_removed_when_the_history_is_opened(tmp_path: Path) -> None:
    """Of the files in runs/, those of running jobs and existing results stay, those of deleted ones are removed."""
    async with opened(tmp_path) as store:
        kept, deleted, emptied = [await done(store, f"t{n}") for n in range(3)]
        held = await running(store, "running")
        await store.delete_job(deleted.id)
        await store.delete_result(emptied.id)
    for job in (kept.id, deleted.id, emptied.id, held.job_id):
        (tmp_path / data_path(job)).write_bytes(b"x")
        (tmp_path / index_path(job)).write_bytes(b"x")
    (tmp_path / "runs" / "notes").touch()
    async with opened(tmp_path):
        left = {path.name for path in (tmp_path / "runs").iterdir()}
    assert left == {f"{job}.{kind}" for job in (kept.id, held.job_id) for kind in ("out", "idx")} | {"notes"}


@pytest.mark.sqlite
async def test_output_of_another_history_is_set_aside(tmp_path: Path) -> None:
    """A new history beside files of another one is refused; if it is wanted, it neither uses nor destroys them."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "31.out").write_bytes(b"old")
    with pytest.raises(StoreUnavailable, match="--new-history"):
        async with opened(tmp_path):
            pass
    assert not (tmp_path / "history.db").exists()
    async with open_store(tmp_path, Retention(), new_history=True) as store:
        assert (await store.add(SPEC)).id == 32
        assert not list((tmp_path / "runs").iterdir())
        assert store.held is None
    (aside,) = tmp_path.glob("runs.*/31.out")
    assert aside.read_bytes() == b"old"


def is_checkpointed(state: Path) -> bool:
    """Return whether the high-water mark says that `history.db` itself has the latest generation."""
    mark = high_water.read(str(state))
    return mark is not None and mark.checkpointed == mark.generation


@pytest.mark.sqlite
async def test_c2_a_reader_holds_up_a_generation_no_longer_than_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C2: one that was raised beside a long read is in history.db itself soon after it, without a further change."""
    monkeypatch.setattr(generation, "_RETRY_DELAY", 0.01)
    path = tmp_path / "history.db"
    async with opened(tmp_path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchone()
            await store.add(SPEC)
            await store.advance_generation()
            main = main_file.read(str(path))
            assert main is not None
            assert main.generation < store.identity.generation
            assert not is_checkpointed(tmp_path)
        await until(lambda: is_checkpointed(tmp_path))
        main = main_file.read(str(path))
        assert main is not None
        assert main.generation == store.identity.generation


@pytest.mark.sqlite
async def test_c2_a_wal_is_not_applied_to_an_older_history(tmp_path: Path) -> None:
    """C2: a history.db that is put back beside the WAL that a crash has left is held, whole, and as it was."""
    state, backup = tmp_path / "state", tmp_path / "backup"
    async with opened(state) as store:
        older = await store.add(SPEC)
        with sqlite3.connect(state / "history.db") as db:
            db.execute("VACUUM INTO ?", (str(backup),))
        db.close()
        await store.advance_generation()
        await until(lambda: is_checkpointed(state), what="the count of the history holds up no checkpoint any more")
        newer = await store.add(SPEC)
        await store.check()
        crashed = tmp_path / "crashed"
        shutil.copytree(state, crashed)
    assert (crashed / "history.db-wal").stat().st_size
    shutil.copyfile(backup, crashed / "history.db")
    async with opened(crashed) as store:
        assert store.held is not None
        assert [job.id for job in await everything(store)] == [older.id]
        assert (await store.add(SPEC)).id > newer.id
    assert list(crashed.glob("history.db-wal.*")), "it is kept"
    with sqlite3.connect(crashed / "history.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


WRITING = """
import asyncio, sys
from pathlib import Path
from shellrunner.store import Retention
from shellrunner.store.sqlite.composition import open_store
from tests.support.histories import NOTHING, SPEC, ended, opened

async def main():
    async with opened(Path(sys.argv[1])) as store:
        async def submit():
            while True:
                job = await store.add(SPEC)
                print("accepted", job.id, flush=True)
        async def work(keeper):
            number = 0
            while True:
                number += 1
                claim = await store.claim(keeper, f"{keeper}.{number}")
                await store.finish(claim.job_id, claim.token, ended(claim.job_id % 256), *NOTHING)
                print("done", claim.job_id, flush=True)
        await asyncio.gather(*(submit() for _ in range(8)), *(work(n) for n in range(4)))

asyncio.run(main())
"""


@pytest.mark.heavy
@pytest.mark.sqlite
@pytest.mark.parametrize("after", [1, 200, 1500])
async def test_kill_9_while_writing_loses_nothing_that_was_acknowledged(tmp_path: Path, after: int) -> None:
    """After kill -9 in the middle of writes, every acknowledged job is there once, with every acknowledged end."""
    writing = subprocess.Popen([sys.executable, "-c", WRITING, tmp_path], stdout=subprocess.PIPE, text=True)
    assert writing.stdout is not None
    lines = []
    for line in writing.stdout:
        lines.append(line.split())
        if len(lines) == after:
            writing.kill()
    writing.wait()
    writing.stdout.close()
    # A line that was cut by the kill says less than was acknowledged.
    accepted = {int(line[1]) for line in lines[:-1] if line[0] == "accepted"}
    finished = {int(line[1]) for line in lines[:-1] if line[0] == "done"}
    async with opened(tmp_path) as store:
        jobs = {job.id: job for job in await everything(store)}
        assert accepted <= jobs.keys()
        assert sorted(jobs) == list(range(1, len(jobs) + 1))
        for job_id in finished:
            phase = jobs[job_id].phase
            assert phase.end.exit_code == job_id % 256  # type: ignore[union-attr]
        held = {claim.job_id for claim in await store.running()}
        assert held == {job.id for job in jobs.values() if job.state is State.RUNNING}
        await store.check()
    db = sqlite3.connect(tmp_path / "history.db")
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


@pytest.mark.sqlite
async def test_s7_a_damaged_row_is_reported_and_affects_no_other(tmp_path: Path) -> None:
    """S7: a row that cannot be read gives StoreUnavailable with the job's id; other jobs can be read."""
    async with opened(tmp_path) as store:
        damaged, whole = await store.add(SPEC), await store.add(SPEC)

        def damage(db: Any) -> None:
            db.execute("UPDATE jobs SET spec = 'x' WHERE id = ?", (damaged.id,))

        await store._engine.write(damage)
        with pytest.raises(StoreUnavailable, match=f"job {damaged.id} "):
            await store.job(damaged.id)
        assert await store.job(whole.id) == whole
