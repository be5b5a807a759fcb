"""`shellrunner backup` and `restore`: what a backup has, that it is of one moment, and that a restore runs nothing.

C2 and C3 of docs/explanation/failures.md.
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shellrunner.backup import restoration
from shellrunner.backup.creation import back_up
from shellrunner.backup.manifest import Manifest
from shellrunner.backup.restoration import restore
from shellrunner.clock import format_rfc3339, now_ms
from shellrunner.errors import ShellrunnerError
from shellrunner.model import Done as DonePhase
from shellrunner.model import Ending, JobSpec
from shellrunner.store.output import spill
from shellrunner.store.sqlite.copying.snapshot import LiveHistory
from tests.support.command_line import Done, Typist
from tests.support.histories import everything, opened
from tests.support.processes import lives
from tests.support.service import Service
from tests.support.waiting import until, within
from tests.test_migrations import HISTORIES, unpacked

# 100,000 bytes beyond a slot's 64 KiB, on both streams.
LARGE = "head -c 150000 /dev/zero | tr '\\0' a; head -c 15536 /dev/zero | tr '\\0' b >&2"


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Service]:
    """Yield a service on another state directory, still to be started."""
    service = Service(tmp_path / "other")
    try:
        yield service
    finally:
        await service.clear_away()


@pytest.fixture
def typist(tmp_path: Path) -> Typist:
    """Return somebody who calls the command line."""
    return Typist(tmp_path)


async def backed_up(service: Service, name: str = "backup") -> Manifest:
    return await asyncio.to_thread(back_up, service.state_dir, service.state_dir.parent / name)


async def restored(service: Service, name: str = "backup", *, set_aside: bool = False) -> None:
    await asyncio.to_thread(restore, service.state_dir.parent / name, service.state_dir, set_aside=set_aside)


async def resume(service: Service) -> None:
    status, _, _ = await service.ask("POST", "/api/queues/resume", json={})
    assert status == 200


def files(directory: Path) -> dict[str, bytes]:
    """Return every file below the directory and its content, but for what SQLite creates when it reads."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in {"lock", "history.db-shm", "history.db-wal"}
    }


# What a backup has -------------------------------------------------------------------------------------------------


@pytest.mark.heavy
async def test_what_has_ended_comes_back_whole(service: Service, other: Service) -> None:
    """Documents and bytes of done jobs are after a restore what they were: small, large, in attempts, deleted."""
    jobs = [
        await service.submit("echo привет; echo oops >&2; exit 3", labels={"a": "b"}, priority=5),
        await service.submit(LARGE),
        await service.submit("for i in $(seq 700); do echo o; echo e >&2; done"),
        await service.submit(f"{LARGE}; exit 1", retries={"max": 1, "delay": 0}),
        await service.submit("echo deleted"),
    ]
    results = {job: await service.result(job) for job in jobs}
    gone = jobs.pop()
    assert (await service.ask("DELETE", f"/api/results/{gone}"))[0] == 204
    statuses = {job: await service.status(job) for job in jobs}
    raw = {(job, stream): await service.raw(job, stream) for job in jobs for stream in ("stdout", "stderr")}
    first = {job: (await service.get(f"/api/results/{job}/attempts/1/stdout"))[2] for job in jobs}
    manifest = await backed_up(service)
    assert (manifest.jobs, manifest.lost, manifest.incomplete) == (5, 0, {})
    await restored(other)
    await other.start()
    for job in jobs:
        assert await other.status(job) == statuses[job]
        assert await other.result(job) == results[job]
        for stream in ("stdout", "stderr"):
            assert await other.raw(job, stream) == raw[job, stream]
        assert (await other.get(f"/api/results/{job}/attempts/1/stdout"))[2] == first[job]
    assert (await other.get(f"/api/results/{gone}"))[0] == 410


@pytest.mark.heavy
async def test_c2_jobs_that_ran_at_the_backup_are_lost_and_do_not_run_again(service: Service, tmp_path: Path) -> None:
    """Jobs that were running when the backup was made, and have ended since, are lost with their output."""
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.01; done"
    small = await service.submit(f"echo $SHELLRUNNER_JOB_ID >> {ledger}; echo so far; {wait}; echo rest")
    large = await service.submit(f"echo $SHELLRUNNER_JOB_ID >> {ledger}; {LARGE}; {wait}; {LARGE}")
    with_retry = await service.submit(f"echo $SHELLRUNNER_JOB_ID >> {ledger}; {wait}", retries={"max": 2, "delay": 0})
    endless = await service.submit("while :; do head -c 20000 /dev/zero; done")
    await until(lambda: ledger.exists() and len(ledger.read_text().split()) == 3)

    async def has_written() -> bool:
        sizes = [len((await service.get(f"/api/statuses/{job}/output"))[2]) for job in (small, large)]
        stored = [path.stat().st_size for path in service.state_dir.glob(f"runs/{endless}[-.]*")]
        return sizes == [7, 165_536] and bool(stored)

    await until(has_written)
    manifest = await backed_up(service)
    assert manifest.lost == 4
    gate.touch()
    await service.ask("POST", f"/api/jobs/{endless}/cancel", json={})
    for job in (small, large, with_retry):
        assert (await service.result(job))["ending"] == "exited"
    await service.stop()
    await restored(service, set_aside=True)
    await service.start()
    await resume(service)
    assert (await service.run("echo after"))["stdout"] == "after\n"
    for job, size in ((small, 7), (large, 150_000), (with_retry, 0)):
        result = await service.result(job)
        assert (result["ending"], result["stdout_bytes"]) == ("lost", size)
        assert "it was running when the backup was made" in result["detail"]
        assert result["started"] is not None
    stored = (await service.result(endless))["stdout_bytes"]
    assert await service.raw(endless) == bytes(stored)
    assert [each.size for path, each in manifest.files.items() if path.startswith(f"runs/{endless}")] == [
        stored - 65_536
    ]
    assert await service.raw(large) == b"a" * 150_000
    assert await service.raw(large, "stderr") == b"b" * 15_536
    assert sorted(ledger.read_text().split()) == sorted(map(str, (small, large, with_retry)))


@pytest.mark.heavy
async def test_c2_jobs_that_waited_are_held_until_they_are_resumed(
    down: Service, other: Service, tmp_path: Path
) -> None:
    """Queued jobs, and those with a start time, a dependency or a retry, do not run after a restore until resumed."""
    service = await down.start(SUPERVISOR__MAX_RUNNING=1)
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    note = f"echo $SHELLRUNNER_JOB_ID >> {ledger}"
    retried = await service.submit(f"{note}; exit 1", retries={"max": 1, "delay": 3})
    done = await service.submit("true")
    await service.result(done)
    blocker = await service.submit(f"while [ ! -e {gate} ]; do sleep 0.01; done")
    await service.running(blocker)
    soon = format_rfc3339(now_ms() + 1_000)
    held = [
        retried,
        await service.submit(note),
        await service.submit(note, start_at=soon),
        await service.submit(note, start_at=format_rfc3339(now_ms() + 3_600_000)),
        await service.submit("true", start_at=soon),
    ]
    held.append(await service.submit(note, after=[held[4]]))
    await backed_up(service)
    before = ledger.read_text().split()
    await service.kill()
    await restored(other)
    await other.start()
    due = time.time() + 3.2

    async def all_queued() -> bool:
        states = [(await other.status(job))["state"] for job in held]
        return time.time() > due and states == ["queued", "queued", "queued", "waiting", "queued", "waiting"]

    await until(all_queued)
    assert ledger.read_text().split() == before == [str(retried)]
    await resume(other)
    for job in (*held[:3], *held[4:]):
        assert (await other.result(job))["ending"] == "exited"
    expected = [retried, *held[:3], held[5]]
    assert sorted(map(int, ledger.read_text().split())) == sorted(expected)
    assert (await other.status(held[3]))["state"] == "waiting"


@pytest.mark.heavy
async def test_a_command_that_still_runs_goes_on_through_a_restore(service: Service, tmp_path: Path) -> None:
    """A command under its keeper goes on when the server is stopped and a backup restored; it is not run again."""
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    command = (
        f"echo start >> {ledger}; {LARGE}; while [ ! -e {gate} ]; do sleep 0.01; done; {LARGE}; echo end >> {ledger}"
    )
    job = await service.submit(command)
    await until(lambda: list(service.state_dir.glob(f"runs/{job}.*out")))
    await backed_up(service)
    keeper = await service.running(job)
    await service.stop()
    await restored(service, set_aside=True)
    await service.start()
    assert (await service.result(job))["ending"] == "lost"
    stored = await service.raw(job)
    await resume(service)
    new = await service.submit(LARGE)
    await service.result(new)
    assert new > job
    assert lives(keeper.pid)
    gate.touch()
    await until(lambda: ledger.read_text() == "start\nend\n")
    await until(lambda: not lives(keeper.pid))
    assert await service.raw(job) == stored
    assert len(await service.raw(new)) == 150_000


@pytest.mark.heavy
async def test_c3_ids_are_above_everything_that_was_seen(service: Service) -> None:
    """After a restore ids go on above those of the history that was set aside, however often that was done."""
    await service.run("true")
    await backed_up(service)
    last = [await service.submit("true") for _ in range(5)][-1]
    await service.result(last)
    await service.stop()
    shutil.rmtree(service.state_dir / "slots")
    await restored(service, set_aside=True)
    await restored(service, set_aside=True)
    (service.state_dir / "history.db").unlink()  # and the newest history does not speak of them
    await restored(service, set_aside=True)
    await service.start()
    await resume(service)
    assert await service.submit("true") == last + 1


@pytest.mark.heavy
async def test_a_backup_needs_no_server(service: Service, other: Service) -> None:
    """After kill -9 and after a stop, a backup has what was committed."""
    job = await service.submit("echo kept")
    await service.result(job)
    await service.kill()
    await backed_up(service, "after-kill")
    await service.start()
    await service.stop()
    await backed_up(service, "after-stop")
    await restored(other, "after-kill")
    await restored(other, "after-stop", set_aside=True)
    await other.start()
    assert await other.raw(job) == b"kept\n"


@pytest.mark.heavy
async def test_it_is_private_and_has_no_secrets(service: Service, tmp_path: Path) -> None:
    """No other user may read a backup; values of the environment and input are not in it, nor any key."""
    await service.run("true", env={"A": "ended-secret"}, stdin="ended-secret")
    gate = tmp_path / "gate"
    running = await service.submit(f"while [ ! -e {gate} ]; do sleep 0.01; done", env={"A": "running-secret"})
    await service.running(running)
    await service.submit("true", env={"A": "waiting-secret"}, start_at=format_rfc3339(now_ms() + 3_600_000))
    await backed_up(service)
    gate.touch()
    backup = tmp_path / "backup"
    for path in (backup, *backup.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    content = b"".join(files(backup).values())
    assert [word for word in (b"ended", b"running", b"waiting") if word + b"-secret" in content] == []
    keys = {path.name for path in (service.state_dir / "keys").iterdir()}
    assert keys
    assert not keys & {path.name for path in backup.rglob("*")}


async def test_a_restored_job_starts_only_with_its_key(tmp_path: Path) -> None:
    """Elsewhere it fails to start once the queues are resumed, and says why; where its key still is, it starts."""
    spec = JobSpec(command="cat", env={"A": "secret"}, stdin="secret")
    async with opened(tmp_path / "state") as store:
        job = await store.add(spec)
    await asyncio.to_thread(back_up, tmp_path / "state", tmp_path / "backup")
    for place, is_there in (("state", True), ("other", False)):
        await asyncio.to_thread(restore, tmp_path / "backup", tmp_path / place, set_aside=True)
        async with opened(tmp_path / place) as store:
            await store.pause(None, paused=False)
            following = await store.add(JobSpec(command="true"))
            claim = await store.claim(1, "t")
            if is_there:
                assert (claim.job_id, claim.spec) == (job.id, spec)
                continue
            phase: Any = (await store.job(job.id)).phase
            assert (claim.job_id, phase.end.ending) == (following.id, Ending.FAILED_TO_START)
            assert "backups contain no keys" in phase.end.detail


async def test_a_backup_of_an_earlier_schema_has_no_plain_secrets(tmp_path: Path) -> None:
    """What an earlier version stored as it was is left out, and so are its hashes of requests."""
    state = unpacked(4, tmp_path / "state")
    with sqlite3.connect(state / "history.db") as db:
        db.execute("""UPDATE jobs SET secrets = '{"stdin": "plain-secret"}' WHERE state IN ('queued', 'waiting')""")
        db.execute("INSERT INTO keys VALUES ('uid:1', 'k', ?, 1, 1)", (b"plain-digest",))
    db.close()
    await asyncio.to_thread(back_up, state, tmp_path / "backup")
    content = b"".join(files(tmp_path / "backup").values())
    assert [word for word in (b"plain-secret", b"plain-digest") if word in content] == []
    await asyncio.to_thread(restore, tmp_path / "backup", tmp_path / "other")
    async with opened(tmp_path / "other") as store:
        await store.pause(None, paused=False)
        await store.pause("backups", paused=False)
        await store.add(JobSpec(command="true", priority=-9))
        assert (await store.claim(1, "t")).spec.priority == -9
        phase = (await store.job(8)).phase
        assert isinstance(phase, DonePhase)
        assert (phase.end.ending, "copied without" in str(phase.end.detail)) == (Ending.FAILED_TO_START, True)


@pytest.mark.parametrize("path", sorted(HISTORIES.iterdir()), ids=lambda path: path.name)
async def test_histories_of_earlier_schemas_are_backed_up(path: Path, tmp_path: Path) -> None:
    """A history of each earlier schema is backed up, though not changed, and restored with all of its jobs."""
    number = int(path.name.removesuffix(".tar.gz").rpartition("-")[2])
    state = unpacked(number, tmp_path / "state")
    before = files(state)
    await asyncio.to_thread(back_up, state, tmp_path / "backup")
    assert files(state) == before
    await asyncio.to_thread(restore, tmp_path / "backup", tmp_path / "other")
    async with opened(state) as store, opened(tmp_path / "other") as copy:
        jobs = {job.id: job for job in await everything(copy)}
        assert jobs.keys() == {job.id for job in await everything(store)}
        assert await copy.running() == []


# Of one moment -----------------------------------------------------------------------------------------------------


class Ledger:
    """What a client knows for certain: which jobs were accepted, seen done and deleted, in this order."""

    def __init__(self) -> None:
        self.accepted: set[int] = set()
        self.done: set[int] = set()
        self.deleting: set[int] = set()
        self.deleted: set[int] = set()

    def copy(self) -> "Ledger":
        other = Ledger()
        other.accepted, other.done = set(self.accepted), set(self.done)
        other.deleting, other.deleted = set(self.deleting), set(self.deleted)
        return other


def output_of(job: int) -> bytes:
    """Return what a job of the load writes; every second one more than a slot holds."""
    return (f"{job} " * (20_000 if job % 2 else 10)).encode()


async def load(service: Service, ledger: Ledger, stop: asyncio.Event, chance: random.Random) -> None:
    """Submit jobs, wait for some, and delete jobs and results, until stopped."""
    command = (
        "n=10; [ $((SHELLRUNNER_JOB_ID % 2)) = 1 ] && n=20000; yes $SHELLRUNNER_JOB_ID | head -n $n | tr '\\n' ' '"
    )
    while not stop.is_set():
        job = await service.submit(command)
        ledger.accepted.add(job)
        if chance.random() < 0.8:
            await service.result(job)
            ledger.done.add(job)
        if ledger.done - ledger.deleting and chance.random() < 0.7:
            chosen = chance.choice(sorted(ledger.done - ledger.deleting)[-3:])  # the newest: they race with the copy
            ledger.deleting.add(chosen)
            kind = chance.choice(("jobs", "results"))
            status, _, _ = await service.ask("DELETE", f"/api/{kind}/{chosen}")
            assert status == 204
            ledger.deleted.add(chosen)


@pytest.mark.heavy
async def test_under_load_each_backup_is_of_one_moment(service: Service, tmp_path: Path) -> None:
    """While jobs end, are deleted and purged: each backup has what was certain before it, and all output is whole."""
    ledger, stop, chance = Ledger(), asyncio.Event(), random.Random(12)
    loads = [asyncio.create_task(load(service, ledger, stop, chance)) for _ in range(4)]
    try:
        for number in range(4):
            enough = len(ledger.done) + 15
            await until(lambda enough=enough: len(ledger.done) >= enough, what="enough jobs have ended")  # type: ignore[misc]
            before = ledger.copy()
            manifest = await backed_up(service, f"backup-{number}")
            after = ledger.copy()
            assert manifest.incomplete == {}
            await check_backup(tmp_path / f"backup-{number}", tmp_path / f"state-{number}", before, after)
    finally:
        stop.set()
        await asyncio.gather(*loads)


async def check_backup(backup: Path, state: Path, before: Ledger, after: Ledger) -> None:
    """Restore it, and compare it with what was known when it was begun and when it was complete."""
    await asyncio.to_thread(restore, backup, state)
    async with opened(state) as store:
        jobs = {job.id: job for job in await everything(store)}
        owners = [spill.attempt_of(path.name) for path in (backup / "runs").iterdir()]
        assert {owner[0] for owner in owners if owner} <= jobs.keys()
        assert before.accepted - after.deleting <= jobs.keys(), "a job is missing"
        for number, job in jobs.items():
            ending = job.phase.end.ending if hasattr(job.phase, "end") else None
            volume = getattr(job.phase, "volume", None)
            if number in before.deleted:
                assert volume is None, "a result returns that was deleted before"
            elif number in before.done:
                assert ending == "exited"
                assert volume is not None or number in after.deleting
            if volume is not None:
                output = await store.output(number)
                data = b"".join([extent.data for extent in await output.read(0, 1 << 20)])
                expected = output_of(number)
                assert len(data) == volume.stored
                assert data == expected if ending == "exited" else expected.startswith(data)


@pytest.mark.heavy
async def test_what_is_deleted_while_files_are_copied_is_deleted_in_the_backup(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that end after the first pass, and are deleted before the second, do not lack output: they are deleted."""
    loop = asyncio.get_running_loop()
    kept, early = await service.submit(LARGE), await service.submit(LARGE)
    await service.result(kept)
    await service.result(early)
    gone: list[int] = []

    async def race(*, delete: bool) -> None:
        if not delete:
            await service.ask("DELETE", f"/api/jobs/{early}")
            gone.extend([await service.submit(LARGE), await service.submit(LARGE)])
            for job in gone:
                await service.result(job)
        else:
            await service.ask("DELETE", f"/api/jobs/{gone[0]}")
            await service.ask("DELETE", f"/api/results/{gone[1]}")
            await service.ask("DELETE", f"/api/jobs/{kept}")
            runs = service.state_dir / "runs"
            await until(lambda: not list(runs.iterdir()), what="the files are removed")

    original = LiveHistory.copy_to

    def copy_to(history: LiveHistory, target: str) -> int:
        asyncio.run_coroutine_threadsafe(race(delete=False), loop).result()
        moment = original(history, target)
        asyncio.run_coroutine_threadsafe(race(delete=True), loop).result()
        return moment

    monkeypatch.setattr(LiveHistory, "copy_to", copy_to)
    manifest = await backed_up(service)
    assert manifest.incomplete == {}
    assert len(manifest.files) == 2, "the history, and the output of one job"
    await asyncio.to_thread(restore, tmp_path / "backup", tmp_path / "other")
    async with opened(tmp_path / "other") as store:
        assert {job.id for job in await everything(store)} == {kept, gone[1]}
        assert (await store.output(kept)).volume.stored == 165_536
        assert len((await (await store.output(kept)).read(0, 1 << 20))[-1].data) > 0
        with pytest.raises(ShellrunnerError, match="was deleted"):
            await store.output(gone[1])


@pytest.mark.heavy
async def test_output_that_was_damaged_before_is_reported(service: Service, tmp_path: Path, typist: Typist) -> None:
    """A file that is shorter than its row promises does not prevent a backup, which says so."""
    job = await service.submit(LARGE)
    await service.result(job)
    (spilled,) = (service.state_dir / "runs").glob(f"{job}.*.out")
    os.truncate(spilled, 5)
    done = await typist.run("backup", "--state-dir", service.state_dir, tmp_path / "backup")
    assert done.code == 0
    assert f"runs/{spilled.name} lacks 99995 bytes" in done.err
    assert Manifest.read(tmp_path / "backup").incomplete == {f"runs/{spilled.name}": 99_995}


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.heavy
async def test_backups_that_are_refused(service: Service, tmp_path: Path, typist: Typist) -> None:
    """Each refusal says what is wrong, and leaves nothing behind."""
    state = service.state_dir
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(state)
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage/runs").mkdir(parents=True)
    (tmp_path / "garbage/history.db").write_bytes(b"garbage" * 1000)
    (tmp_path / "linked/runs").mkdir(parents=True)
    (tmp_path / "linked/history.db").symlink_to(state / "history.db")
    before = sorted(tmp_path.iterdir())

    async def refused(target: object, words: str, source: Path = state) -> None:
        done = await typist.run("backup", "--state-dir", source, target)
        assert (done.code, done.out) == (1, b"")
        assert words in done.err
        assert done.err.count("\n") == 1

    await refused(tmp_path / "there", "exists already")
    await refused(state / "backup", "inside the state directory")
    await refused(state / "runs/backup", "inside the state directory")
    await refused(tmp_path / "link/backup", "inside the state directory")
    await refused(tmp_path / "missing/backup", "is not a directory: create it first")
    await refused(tmp_path / "new", "there is no history in", tmp_path / "empty")
    await refused(tmp_path / "new", "there is no history in", tmp_path / "nowhere")
    await refused(tmp_path / "new", "file is not a database", tmp_path / "garbage")
    await refused(tmp_path / "new", "is not a regular file", tmp_path / "linked")
    assert sorted(tmp_path.iterdir()) == before
    assert not list(state.glob("backup*"))
    assert not list(state.glob("runs/*"))


@pytest.mark.heavy
async def test_restores_that_are_refused(service: Service, tmp_path: Path, typist: Typist) -> None:
    """A restore beside a server, over a history, or of what is not a whole backup, is refused and changes nothing."""
    job = await service.submit(LARGE)
    await service.result(job)
    await backed_up(service)
    backup = tmp_path / "backup"

    async def refused(words: str, source: Path = backup, target: Path = service.state_dir, *options: str) -> None:
        done = await typist.run("restore", source, "--state-dir", target, *options)
        assert (done.code, done.out) == (1, b"")
        assert words in done.err
        assert done.err.count("\n") == 1

    await refused("another server")
    await refused("another server", backup, service.state_dir, "--set-aside")
    await service.stop()
    before = files(service.state_dir)
    await refused("already has a history (history.db)")
    new = tmp_path / "new"
    await refused("is not a backup", tmp_path, new)
    (tmp_path / "x.partial").mkdir()
    await refused("is an unfinished backup", tmp_path / "x.partial", new)

    async def damaged(words: str, change: Callable[[Path], object]) -> None:
        broken = tmp_path / "broken"
        shutil.copytree(backup, broken)
        change(broken)
        await refused(words, broken, new)
        await refused(words, broken, service.state_dir, "--set-aside")
        shutil.rmtree(broken)

    def edited(path: Path) -> None:
        path.write_text(path.read_text().replace('"jobs": 1', '"jobs": 2'))

    (output,) = (f"runs/{path.name}" for path in (tmp_path / "backup" / "runs").glob("*.out"))
    await damaged("manifest.json", lambda path: (path / "manifest.json").unlink())
    await damaged("manifest.json is damaged", lambda path: os.truncate(path / "manifest.json", 100))
    await damaged("manifest.json is damaged", lambda path: edited(path / "manifest.json"))
    await damaged("manifest.json is damaged", lambda path: (path / "manifest.json").write_text("[]"))
    await damaged("version of shellrunner", lambda path: (path / "manifest.json").write_text('{"format": 2}'))
    await damaged(f"{output} is missing", lambda path: (path / output).unlink())
    await damaged(f"{output} is not as the manifest", lambda path: os.truncate(path / output, 99_999))
    await damaged(f"{output} is not as the manifest", lambda path: (path / output).write_bytes(b"b" * 100_000))
    await damaged("history.db is not as the manifest", lambda path: os.truncate(path / "history.db", 8192))
    await damaged("history.db is missing", lambda path: (path / "history.db").unlink())
    assert files(service.state_dir) == before
    assert files(new) == {}


@pytest.mark.heavy
async def test_what_was_there_is_set_aside_and_kept(service: Service, tmp_path: Path, typist: Typist) -> None:
    """With --set-aside every file of the earlier history is kept, even one that cannot be read."""
    job = await service.submit(LARGE)
    await service.result(job)
    await backed_up(service)
    await service.stop()
    (service.state_dir / "history.db").write_bytes(b"garbage")
    done = await typist.run("restore", tmp_path / "backup", "--state-dir", service.state_dir, "--set-aside")
    assert done.code == 0, done.err
    assert "the earlier history cannot be read" in done.err
    assert b"all queues are paused" in done.out
    (aside,) = service.state_dir.glob("set-aside-*")
    assert (aside / "history.db").read_bytes() == b"garbage"
    (spilled,) = (aside / "runs").glob(f"{job}.*.out")
    assert spilled.stat().st_size == 100_000
    await service.start()
    assert await service.raw(job) == b"a" * 150_000


# Interruptions -----------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda kill: kill.name)
async def test_a_killed_backup_leaves_nothing_that_a_restore_accepts(
    service: Service, tmp_path: Path, kill: signal.Signals
) -> None:
    """Killed at any step a backup does not exist; by SIGTERM and Ctrl-C it leaves nothing."""
    for _ in range(3):
        await service.result(await service.submit(LARGE))
    pauses = ("private_files.copy", "open_copy", "Manifest.to_bytes", "private_files.sync_tree")
    for number, place in enumerate(pauses):
        place_dir = tmp_path / f"place-{number}"
        place_dir.mkdir()
        await until_paused_then(kill, place, service.state_dir, place_dir / "backup")
        left = list(place_dir.iterdir())
        assert [path.suffix for path in left] == ([".partial"] if kill == signal.SIGKILL else [])
        for path in left:
            with pytest.raises(ShellrunnerError, match="unfinished"):
                restore(path, tmp_path / "new")
            path.rename(path.with_suffix(""))
            if place != "private_files.sync_tree":  # from then on it is whole, but for its name
                with pytest.raises(ShellrunnerError, match="not a backup"):
                    restore(path.with_suffix(""), tmp_path / "new")
    assert not (tmp_path / "new").exists()


async def until_paused_then(kill: signal.Signals, place: str, state: Path, target: Path) -> None:
    """Run a backup that stops before `place`, and send it the signal there."""
    owner, _, name = place.partition(".")
    program = f"""
import sys, time
from shellrunner.backup import creation
from shellrunner.cli import main
owner = creation.{owner} if {bool(name)} else creation
def pause(*args, **options):
    print("here", flush=True)
    while True:
        time.sleep(1)
setattr(owner, {name or owner!r}, pause)
sys.argv = ["shellrunner", "backup", "--state-dir", {str(state)!r}, {str(target)!r}]
main()
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout
    assert await process.stdout.readline() == b"here\n"
    process.send_signal(kill)
    assert await within(process.wait(), what="the backup has ended") != 0


@pytest.mark.heavy
@pytest.mark.parametrize("step", ["_set_aside", "_move_into_place", "_take_ownership"])
async def test_an_interrupted_restore_is_repeated_before_a_server_starts(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typist: Typist, step: str
) -> None:
    """If a restore is killed between its steps, no server starts until it was repeated, and nothing is lost."""
    job = await service.submit(LARGE)
    await service.result(job)
    await backed_up(service)
    newer = await service.submit("echo newer")
    await service.result(newer)
    await service.stop()
    with monkeypatch.context() as patched:
        original = getattr(restoration._Restoring, step)

        def killed(*arguments: Any) -> None:
            if step != "_take_ownership" or arguments[1].name == "slots":  # after history.db was moved
                raise KeyboardInterrupt
            original(*arguments)

        patched.setattr(restoration._Restoring, step, killed)
        with pytest.raises(KeyboardInterrupt):
            restore(tmp_path / "backup", service.state_dir, set_aside=True)
    done = await typist.run("serve", "--port", "0", "--state-dir", service.state_dir)
    assert done.code == 1
    assert "a restore was interrupted: repeat it" in done.err
    await restored(service, set_aside=True)
    assert any(b"echo newer" in content for path, content in files(service.state_dir).items() if "aside" in path)
    await service.start()
    assert await service.raw(job) == b"a" * 150_000
    await resume(service)
    assert await service.submit("true") == newer + 1


async def in_small_file_system(typist: Typist, place: Path, size: str, *arguments: object) -> Done:
    """Call the command line with a file system of this size mounted at `place`."""
    words = " ".join(f"'{word}'" for word in (sys.executable, "-m", "shellrunner", *arguments))
    script = (
        f"mount -t tmpfs -o size={size} none {place} && {words}; code=$?; find {place} -mindepth 1 >&2; exit $code"
    )
    process = await asyncio.create_subprocess_exec(
        "unshare", "-rm", "sh", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=typist.environment
    )
    out, err = await process.communicate()
    return Done(process.returncode or 0, out, err.decode())


def can_mount() -> bool:
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(words, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.heavy
@pytest.mark.parametrize("size", ["64k", "320k", "400k"])
@pytest.mark.skipif(not can_mount(), reason="needs to mount a small file system")
async def test_a_full_disk_is_a_clear_error(service: Service, tmp_path: Path, typist: Typist, size: str) -> None:
    """If the target's file system is full, nothing stays in it, and the message names the reason."""
    for _ in range(2):
        await service.result(await service.submit(LARGE))
    place = tmp_path / "small"
    place.mkdir()
    done = await in_small_file_system(typist, place, size, "backup", "--state-dir", service.state_dir, place / "b")
    assert done.code == 1
    assert "the backup was not made" in done.err
    assert "No space left on device" in done.err or "disk is full" in done.err
    assert done.err.count("\n") == 1, "nothing was left"


@pytest.mark.heavy
async def test_a_restore_on_a_full_disk_changes_nothing(service: Service, tmp_path: Path) -> None:
    """If a restore fails while files are copied, what was there is as it was."""
    job = await service.submit(LARGE)
    await service.result(job)
    await backed_up(service)
    await service.stop()
    before = files(service.state_dir)
    program = (
        "import resource, sys; from shellrunner.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        f"sys.argv = ['shellrunner', 'restore', {str(tmp_path / 'backup')!r}, '--set-aside', "
        f"'--state-dir', {str(service.state_dir)!r}]; main()"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stderr=subprocess.PIPE)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert b"the backup was not restored: " in err
    assert files(service.state_dir) == before
    await service.start()
    assert await service.raw(job) == b"a" * 150_000


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_restores_for_the_services_user(service: Service, tmp_path: Path) -> None:
    """What root restores belongs to the owner of the state directory."""
    await service.result(await service.submit(LARGE))
    await backed_up(service)
    state = tmp_path / "theirs"
    state.mkdir()
    os.chown(state, 65_534, 65_534)
    restore(tmp_path / "backup", state)
    restore(tmp_path / "backup", state, set_aside=True)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in state.rglob("*")} == {(65_534, 65_534)}


def test_a_manifest_is_json_that_others_can_read(tmp_path: Path) -> None:
    """Sizes and SHA-256 sums are those of the files, so that other tools can check a backup."""
    unpacked(1, tmp_path / "state")
    manifest = back_up(tmp_path / "state", tmp_path / "backup")
    document = json.loads((tmp_path / "backup/manifest.json").read_text())
    for path, each in document["files"].items():
        words = subprocess.run(["sha256sum", tmp_path / "backup" / path], check=True, capture_output=True, text=True)
        assert words.stdout.split()[0] == each["sha256"]
    assert document["last_id"] == manifest.last_id == 8


def test_sessions_do_not_return(tmp_path: Path) -> None:
    """A session that was ended since the backup does not return with it."""
    unpacked(3, tmp_path / "state")
    with contextlib.closing(sqlite3.connect(tmp_path / "state/history.db")) as db:
        db.execute("INSERT OR IGNORE INTO sessions VALUES (x'01', 'hash', 9999999999999)")
        db.commit()
    back_up(tmp_path / "state", tmp_path / "backup")
    with contextlib.closing(sqlite3.connect(tmp_path / "backup/history.db")) as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
