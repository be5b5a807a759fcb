"""Copied, restored, moved and removed histories: the original's jobs are not touched, and nothing is run twice.

C1 to C3 of docs/explanation/failures.md. Commands write into a ledger, which says what was started how often.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shellrunner.store.state_files import high_water
from shellrunner.store.state_files.home import Home
from tests.support.processes import lives
from tests.support.service import Service
from tests.support.waiting import until


class Ledger:
    """A file into which commands write when they start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.gate = path.with_name("gate")

    def waiting(self, name: str) -> str:
        """Return a command that notes its start, waits for the gate, and exits with 7."""
        return (
            f"echo {name} >> {self._path}; while [ ! -e {self.gate} ]; do sleep 0.02; done; echo {name} done; exit 7"
        )

    def starts(self) -> Counter[str]:
        """Return how often each command was started."""
        return Counter(self._path.read_text().split() if self._path.exists() else ())


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@asynccontextmanager
async def served(state_dir: Path, *options: str, **settings: object) -> AsyncIterator[Service]:
    """Run another service."""
    service = Service(state_dir)
    service.program += options
    await service.start(**settings)
    try:
        yield service
    finally:
        await service.clear_away()


async def refused(state_dir: Path, *options: str) -> str:
    """Start a service that must not start; return its log."""
    service = Service(state_dir)
    service.program += options
    with pytest.raises(AssertionError, match="did not start"):
        await service.start()
    await service.session.close()
    return str(service.log)


async def resume(service: Service) -> None:
    status, _, _ = await service.ask("POST", "/api/queues/resume")
    assert status == 200


async def held(service: Service) -> Any:
    """Return why the history is held; None if it is not."""
    queues = (await service.get("/api/queues"))[2]
    assert queues["paused"] == (queues["held"] is not None)
    return queues["held"] and queues["held"]["reason"]


async def loaded(service: Service, ledger: Ledger) -> dict[str, int]:
    """Submit jobs of each kind: one runs; one is queued, and two wait, of which one for a time that has come."""
    jobs = {"running": await service.submit(ledger.waiting("running"))}
    await service.running(jobs["running"])
    await until(lambda: ledger.starts()["running"])
    jobs["queued"] = await service.submit(ledger.waiting("queued"))
    jobs["after"] = await service.submit(ledger.waiting("after"), after=[jobs["queued"]])
    jobs["timed"] = await service.submit(ledger.waiting("timed"), start_at="2096-01-01T00:00:00Z")
    return jobs


def by(*words: str) -> Callable[[Path, Path], object]:
    return lambda source, target: subprocess.run([*words, source, target], check=True)


def by_tar(source: Path, target: Path) -> None:
    target.mkdir()
    # It exits with 1 if a file has changed meanwhile.
    made = subprocess.run(["tar", "-C", source, "-cf", "-", "."], check=False, capture_output=True).stdout
    subprocess.run(["tar", "-C", target, "-xf", "-"], input=made, check=True)


def without_slots(source: Path, target: Path) -> None:
    """Copy the database alone, as SQLite's own tools do."""
    target.mkdir()
    with sqlite3.connect(source / "history.db") as live:
        live.execute("VACUUM INTO ?", (str(target / "history.db"),))
    live.close()


COPIES = {"cp -a": by("cp", "-a"), "cp -r": by("cp", "-r", "--reflink=auto"), "tar": by_tar, "VACUUM": without_slots}


@pytest.mark.heavy
@pytest.mark.parametrize("way", COPIES)
async def test_c1_a_copy_touches_nothing_of_the_original(down: Service, ledger: Ledger, way: Any) -> None:
    """C1: a server on a copy of a running state sweeps nothing, runs nothing, and says so; the original goes on."""
    original = await down.start(SUPERVISOR__MAX_RUNNING=1)
    jobs = await loaded(original, ledger)
    keeper = await original.running(jobs["running"])
    copy = original.state_dir.with_name("copy")
    COPIES[way](original.state_dir, copy)
    async with served(copy, SUPERVISOR__MAX_RUNNING=1) as second:
        lost = await second.result(jobs["running"])
        assert (lost["ending"], "the history was copied" in lost["detail"]) == ("lost", True)
        assert [(await second.status(jobs[name]))["state"] for name in ("queued", "after", "timed")] == [
            "queued", "waiting", "waiting",
        ]  # fmt: skip
        assert await held(second)
        assert any("was copied" in line["event"] for line in second.log)
        status, _, body = await second.get("/readyz")
        assert (status, b"held" in body) == (200, True)
        assert lives(keeper.pid)
        await second.restart()
        assert await held(second), "a restart does not release it"
        assert (await second.result(jobs["running"]))["ending"] == "lost"
        assert ledger.starts() == {"running": 1}
        ledger.gate.touch()
        result = await original.result(jobs["running"])
        assert (result["exit_code"], result["stdout"]) == (7, "running done\n")
        assert (await original.result(jobs["queued"]))["exit_code"] == 7
        await resume(second)
        assert (await second.result(jobs["queued"]))["exit_code"] == 7
        assert (await second.status(jobs["after"]))["state"] == "done"


@pytest.mark.heavy
async def test_c1_a_copy_of_an_earlier_version_touches_nothing(down: Service, ledger: Ledger) -> None:
    """C1: a history without home and generation is known for a copy by a slot whose keeper lives elsewhere."""
    original = await down.start(SUPERVISOR__MAX_RUNNING=1)
    jobs = await loaded(original, ledger)
    keeper = await original.running(jobs["running"])
    copy = original.state_dir.with_name("copy")
    by("cp", "-a")(original.state_dir, copy)
    for mark in high_water.names(str(copy)):
        (copy / mark).unlink()
    with sqlite3.connect(copy / "history.db") as db:
        db.execute("UPDATE meta SET value = '' WHERE key = 'home'")
        db.execute("UPDATE meta SET value = '0' WHERE key = 'generation'")
    db.close()
    async with served(copy) as second:
        assert (await second.result(jobs["running"]))["ending"] == "lost"
        assert await held(second)
        assert lives(keeper.pid)
    ledger.gate.touch()
    assert (await original.result(jobs["running"]))["exit_code"] == 7
    assert ledger.starts()["running"] == 1


@pytest.mark.heavy
async def test_a_moved_directory_goes_on(down: Service, ledger: Ledger) -> None:
    """After `mv` within the file system, running jobs are adopted, queued ones run, and nothing is held."""
    await down.start(SUPERVISOR__MAX_RUNNING=1)
    jobs = await loaded(down, ledger)
    await down.stop()
    os.rename(down.state_dir, down.state_dir.with_name("moved"))
    down.state_dir = down.state_dir.with_name("moved")
    await down.start()
    assert (await down.status(jobs["running"]))["state"] == "running"
    assert not await held(down)
    ledger.gate.touch()
    assert (await down.result(jobs["running"]))["exit_code"] == 7
    assert (await down.result(jobs["queued"]))["exit_code"] == 7
    assert ledger.starts() == {"running": 1, "queued": 1}


def test_a_home_is_known_after_a_reboot_and_not_in_a_copy(tmp_path: Path) -> None:
    """Another boot may give the device another number; a directory that was removed and made again is another one."""
    lock = tmp_path / "state" / "lock"
    lock.parent.mkdir()
    lock.touch()
    home = Home.from_lock(str(lock))
    assert Home.from_text(home.to_text()) == home
    assert home.is_same(home._replace(boot="another", volume="device 1"))
    assert not home.is_same(home._replace(volume="device 1"))
    os.rename(lock.parent, tmp_path / "moved")
    assert Home.from_lock(str(tmp_path / "moved" / "lock")).is_same(home)
    numbers = {os.stat(tmp_path / "moved" / "lock").st_ino}
    for _ in range(100):  # ext4 gives a freed inode to the next new file
        shutil.rmtree(tmp_path / "moved")
        (tmp_path / "moved").mkdir()
        (tmp_path / "moved" / "lock").touch()
        assert not Home.from_lock(str(tmp_path / "moved" / "lock")).is_same(home)
        numbers.add(os.stat(tmp_path / "moved" / "lock").st_ino)


@pytest.mark.heavy
async def test_c1_a_hard_linked_copy_is_refused(down: Service, ledger: Ledger) -> None:
    """C1: `cp -al` gives the history a second name: no server starts on it, while the first one runs or later."""
    original = await down.start()
    job = await original.submit(ledger.waiting("running"))
    await original.running(job)
    linked = original.state_dir.with_name("linked")
    by("cp", "-al")(original.state_dir, linked)
    assert "another server" in await refused(linked)
    await original.stop()
    assert "hard link" in await refused(linked)
    await original.start()
    ledger.gate.touch()
    assert (await original.result(job))["exit_code"] == 7
    assert ledger.starts() == {"running": 1}
    assert not await held(original)


def put_back(backup: Path, state: Path, *, rename: bool) -> None:
    """Replace history.db alone, as a restore by hand does."""
    if rename:
        shutil.copy(backup, state / "new")
        os.rename(state / "new", state / "history.db")
    else:
        shutil.copyfile(backup, state / "history.db")
        for left in ("history.db-wal", "history.db-shm"):  # they belong to what was overwritten
            (state / left).unlink(missing_ok=True)


@pytest.mark.heavy
@pytest.mark.parametrize("stopped", ["stopped", "killed"])
@pytest.mark.parametrize("rename", [True, False], ids=["mv", "cp"])
async def test_c2_a_restored_history_runs_nothing_again(
    down: Service, ledger: Ledger, tmp_path: Path, stopped: str, rename: bool
) -> None:
    """C2: jobs that ran or were queued at an online backup, and ran since, are lost or held; ids go on above (C3)."""
    service = await down.start(SUPERVISOR__MAX_RUNNING=1)
    jobs = await loaded(service, ledger)
    with sqlite3.connect(service.state_dir / "history.db") as live, sqlite3.connect(tmp_path / "backup") as backup:
        live.backup(backup)
    live.close()
    backup.close()
    ledger.gate.touch()
    assert (await service.result(jobs["queued"]))["exit_code"] == 7
    later = await service.submit(ledger.waiting("later"))
    await service.result(later)
    before = ledger.starts()
    await (service.stop() if stopped == "stopped" else service.kill())
    put_back(tmp_path / "backup", service.state_dir, rename=rename)
    await service.start()
    lost = await service.result(jobs["running"])
    assert (lost["ending"], "restored" in lost["detail"]) == ("lost", True)
    assert (await service.status(jobs["queued"]))["state"] == "queued"
    assert await held(service)
    new = await service.submit(ledger.waiting("new"))
    assert new > later, "C3: ids are above everything that was seen"
    assert ledger.starts() == before
    await service.restart()
    assert await held(service)
    await resume(service)
    assert (await service.result(new))["exit_code"] == 7
    with sqlite3.connect(service.state_dir / "history.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


@pytest.mark.heavy
async def test_c2_commands_that_run_go_on_after_a_restore_in_place(
    down: Service, ledger: Ledger, tmp_path: Path
) -> None:
    """C2: a command that still runs is not ended, also if the restored history knows its job, which is lost."""
    service = await down.start(SUPERVISOR__MAX_RUNNING=1)
    jobs = await loaded(service, ledger)
    keeper = await service.running(jobs["running"])
    without_slots(service.state_dir, tmp_path / "backup")
    await service.stop()
    put_back(tmp_path / "backup" / "history.db", service.state_dir, rename=True)
    await service.start()
    assert (await service.result(jobs["running"]))["ending"] == "lost"
    assert lives(keeper.pid)
    ledger.gate.touch()
    await until(lambda: not lives(keeper.pid))
    assert ledger.starts() == {"running": 1}


@pytest.mark.heavy
async def test_c2_a_command_that_the_history_does_not_know_can_be_ended(
    down: Service, ledger: Ledger, tmp_path: Path
) -> None:
    """C2: a command of a later job that runs on is logged, counted and listed, and an admin can end it."""
    service = await down.start()
    without_slots(service.state_dir, tmp_path / "backup")
    jobs = [await service.submit(ledger.waiting(name)) for name in ("one", "two")]
    keepers = [await service.running(job) for job in jobs]
    await service.stop()
    put_back(tmp_path / "backup" / "history.db", service.state_dir, rename=True)
    await service.start()

    async def unknown() -> Any:
        return (await service.get("/api/keepers"))[2]["keepers"]

    async def both() -> bool:
        return len(await unknown()) == 2

    await until(both)
    assert {(row["pid"], row["job_id"]) for row in await unknown()} == {
        (keeper.pid, job) for keeper, job in zip(keepers, jobs, strict=True)
    }
    assert sum("not in the history" in line["event"] for line in service.log) == 2
    assert b"shellrunner_unknown_keepers 2.0" in (await service.get("/metrics"))[2]
    (number,) = [row["keeper"] for row in await unknown() if row["job_id"] == jobs[0]]
    assert (await service.ask("DELETE", f"/api/keepers/{number}"))[0] == 202
    await until(lambda: not lives(keepers[0].pid))
    assert (await service.ask("DELETE", "/api/keepers/999"))[0] == 404
    assert lives(keepers[1].pid)
    ledger.gate.touch()
    await until(lambda: not lives(keepers[1].pid))

    async def none() -> bool:
        return not await unknown()

    await until(none)
    assert len(list((service.state_dir / "slots" / "aside").glob("*.slot"))) >= 2


@pytest.mark.heavy
async def test_c2_a_whole_directory_put_back_in_place_is_held(down: Service, ledger: Ledger, tmp_path: Path) -> None:
    """C2: `cp -a backup/. state/` keeps every inode, also the lock's; the newer generation is still there."""
    service = await down.start(SUPERVISOR__MAX_RUNNING=1)
    jobs = await loaded(service, ledger)
    await service.kill()
    await until(lambda: len(service.keepers()) == 1)
    by("cp", "-a")(service.state_dir, tmp_path / "backup")
    await service.start()
    ledger.gate.touch()
    await service.result(jobs["queued"])
    before = ledger.starts()
    await service.stop()
    subprocess.run(["cp", "-a", f"{tmp_path}/backup/.", service.state_dir], check=True)
    await service.start()
    assert (await service.result(jobs["running"]))["ending"] == "lost"
    assert await held(service)
    assert (await service.status(jobs["queued"]))["state"] == "queued"
    assert ledger.starts() == before


@pytest.mark.heavy
async def test_c3_a_removed_history_is_not_silently_begun_again(down: Service, ledger: Ledger) -> None:
    """C3: without history.db the service does not start; with --new-history its ids are above the earlier ones."""
    service = await down.start()
    job = await service.submit(f"head -c 200000 /dev/zero; {ledger.waiting('running')}")
    keeper = await service.running(job)
    await until(lambda: ledger.starts()["running"])
    await service.kill()
    for path in service.state_dir.glob("history.db*"):
        path.unlink()
    log = await refused(service.state_dir)
    assert "--new-history" in log
    assert not (service.state_dir / "history.db").exists()
    service.program += ["--new-history"]
    await service.start()
    assert lives(keeper.pid)
    assert not await held(service)
    new = await service.submit("head -c 200000 /dev/zero | tr '\\0' y")
    assert new > job
    await service.result(new)
    assert await service.raw(new) == b"y" * 200_000
    await service.restart()
    assert (await service.result(new))["exit_code"] == 0, "the option has no effect on a history that is there"
    service.signal(keeper, signal.SIGKILL)
    await until(lambda: not lives(keeper.pid))


@pytest.mark.heavy
async def test_c3_a_history_of_another_directory_is_refused(down: Service, tmp_path: Path) -> None:
    """C3: where the files beside it are of another history it is refused, or held if that is wanted."""
    async with served(tmp_path / "other") as other:
        await other.run("true")
        assert await other.stop() == 0
    service = await down.start()
    job = await service.run("true")
    await service.stop()
    shutil.copy(tmp_path / "other" / "history.db", service.state_dir / "history.db")
    assert "is the history" in await refused(service.state_dir)
    service.program += ["--new-history"]
    await service.start()
    assert await held(service)
    assert await service.submit("true") > job["result_id"]


@pytest.mark.heavy
async def test_two_servers_on_one_directory_by_two_paths(down: Service, tmp_path: Path) -> None:
    """A symbolic link leads to the same home: the lock refuses the second server, and moves are not noticed."""
    service = await down.start()
    (tmp_path / "link").symlink_to(service.state_dir)
    assert "another server" in await refused(tmp_path / "link")
    await service.stop()
    async with served(tmp_path / "link") as second:
        assert not await held(second)
