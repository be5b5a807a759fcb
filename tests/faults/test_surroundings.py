"""Full disks, no inodes, descriptors or processes: running jobs go on, endings are true, and the service recovers."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.faults.filesystems import Need, filled, frozen, mounted, without_inodes
from tests.faults.ordeal import Ordeal
from tests.support.processes import marked
from tests.support.service import Service
from tests.support.tokens import hash_of, secret_of
from tests.support.users import ORDINARY, UNREACHABLE, as_user
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)

TOKEN: Final = secret_of("surroundings")


@contextlib.asynccontextmanager
async def serving(state_dir: Path, *prefix: str, **settings: object) -> AsyncIterator[Service]:
    """Run a service, by way of a program that is given its command line."""
    service = Service(state_dir)
    service.program = [*prefix, *service.program]
    try:
        yield await service.start(JOBS__KILL_GRACE=0.5, **settings)
    finally:
        await service.clear_away()
        for line in service.log[-30:]:
            print(line)
        # A fork server outlives its keepers for a moment, and uses the directory, which is removed or unmounted next.
        await until(lambda: not marked(str(state_dir)), what="no process of the service is left")


def limited(options: str) -> list[str]:
    """Return a prefix that sets limits for a service."""
    return ["sh", "-c", f'ulimit {options} && exec "$@"', "sh"]


@pytest.mark.heavy
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "btrfs"])
async def test_s8_a_full_disk(kind: str, tmp_path: Path, need: Need, whole: bool) -> None:
    """No space for the history, slots and output."""
    if kind != "tmpfs" and not whole:
        pytest.skip("only with --faults whole")
    with mounted(kind, tmp_path, need) as directory:
        async with serving(directory / "state") as service:
            ordeal = Ordeal(service, tmp_path)
            await ordeal.run(partial(filled, directory), hold=6 if whole else 0)  # 6: a check of the history's health


@pytest.mark.heavy
@pytest.mark.usefixtures("root")
async def test_s8_stops_and_starts_on_a_full_disk(tmp_path: Path, need: Need) -> None:
    """A server that is stopped, killed and started while there is no space."""
    with mounted("tmpfs", tmp_path, need) as directory:
        async with serving(directory / "state") as service:
            await Ordeal(service, tmp_path).run(partial(filled, directory), restarts=True)


@pytest.mark.heavy
@pytest.mark.usefixtures("root")
async def test_s8_a_start_on_a_full_disk(tmp_path: Path, need: Need) -> None:
    """The ballast is given up for the start; without it, the message names the cause, and nothing else to do."""
    with mounted("tmpfs", tmp_path, need) as directory:
        async with serving(directory / "state") as service:
            done = await service.run("echo before; exit 2")
            assert await service.stop() == 0
            with filled(directory):
                await service.start()
                assert (await service.get(f"/api/results/{done['result_id']}"))[2] == done
                await service.kill()
            assert await service.start()
            assert await service.stop() == 0
            (directory / "state" / "ballast").write_bytes(b"")
            with filled(directory):
                await service.launch()
                assert await service.ended() == 1
                assert "and the disk is full: free space" in str(service.log)
            await service.start()
            assert (await service.get(f"/api/results/{done['result_id']}"))[2] == done


@pytest.mark.heavy
@pytest.mark.usefixtures("root")
async def test_s8_no_inodes(tmp_path: Path, need: Need) -> None:
    """Space, but no inode for further files."""
    with mounted("tmpfs", tmp_path, need, ",nr_inodes=100") as directory:
        async with serving(directory / "state") as service:
            await Ordeal(service, tmp_path).run(partial(without_inodes, directory), restarts=True)


@pytest.mark.usefixtures("root", "only_whole")
async def test_s5_a_frozen_file_system(tmp_path: Path, need: Need) -> None:
    """While every write waits, as for a snapshot, nothing is lost; afterwards everything goes on."""
    gate = tmp_path / "gate"
    with mounted("ext4", tmp_path, need) as directory:
        async with serving(directory / "state") as service:
            job = await service.submit(f"while [ ! -e {gate} ]; do sleep 0.02; done; seq 30000; exit 4")
            await service.running(job)
            with frozen(directory):
                gate.touch()
                submission = asyncio.create_task(service.run("echo thawed; exit 6"))
                assert (await service.get("/healthz"))[0] == 200
                await asyncio.sleep(2)
                assert not submission.done()
            assert (await submission)["exit_code"] == 6
            assert (await service.result(job))["exit_code"] == 4
            assert await service.raw(job) == "".join(f"{n}\n" for n in range(1, 30001)).encode()


@pytest.mark.usefixtures("root", "only_whole")
async def test_a_file_system_that_became_read_only(tmp_path: Path, need: Need) -> None:
    """After an error ext4 refuses every write: commands go on, submissions are refused, and nothing is invented."""
    gate, ended = tmp_path / "gate", tmp_path / "ended"
    with mounted("ext4", tmp_path, need) as directory:
        async with serving(directory / "state") as service:
            done = await service.run("echo before; exit 2")
            job = await service.submit(
                f"while [ ! -e {gate} ]; do sleep 0.02; done; seq 30000; echo x >> {ended}; exit 4"
            )
            await service.running(job)
            subprocess.run(["mount", "-o", "remount,abort", str(directory)], check=True)
            status, _, body = await service.ask("POST", "/api/jobs", json={"command": "true"})
            assert status == 503
            assert body["type"] in ("/problems/store-unavailable", "/problems/outcome-unknown")
            gate.touch()
            await until(lambda: ended.exists() and ended.read_text() == "x\n")
            _, _, again = await service.get(f"/api/results/{done['result_id']}")
            assert again == done
            await until_not_ready(service)
            status, _, body = await service.get(f"/api/statuses/{job}")
            assert body["ending"] is None or (body["ending"], body["exit_code"]) == ("exited", 4), body
        await _check_and_mount_again(directory)
        async with serving(directory / "state") as service:
            _, _, again = await service.get(f"/api/results/{done['result_id']}")
            assert again == done
            result = await service.result(job)
            assert (result["ending"], result["exit_code"]) in {("lost", None), ("exited", 4)}, result
            assert (await service.run("exit 8"))["exit_code"] == 8
            assert ended.read_text() == "x\n"


_REPAIRED: Final = 1 | 2  # bits of e2fsck's exit code that are no failure (e2fsck(8))


async def _check_and_mount_again(directory: Path) -> None:
    """Check and repair a file system, as a reboot does; its device stays the same, as that of a disk does."""

    def is_free() -> bool:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))  # EBUSY while it is mounted, lazily unmounted or not
        except OSError:
            return False
        return True

    device = f"/dev/loop{os.minor(directory.stat().st_dev)}"
    held = os.open(device, os.O_RDONLY)  # it would be detached, and the next mount might get another one
    try:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        checked = subprocess.run(["e2fsck", "-fy", device], check=False, capture_output=True, text=True)
        assert checked.returncode & ~_REPAIRED == 0, checked.stdout + checked.stderr
        subprocess.run(["mount", device, str(directory)], check=True)
    finally:
        os.close(held)


async def until_not_ready(service: Service) -> None:
    """Wait until the service reports that it does not accept jobs."""

    async def refuses() -> bool:
        return (await service.get("/readyz"))[0] == 503

    await until(refuses)


@pytest.mark.heavy
@pytest.mark.parametrize("hard", [False, True])
async def test_few_open_files(tmp_path: Path, hard: bool) -> None:
    """A soft limit of 64 is raised; with a hard one of 64 the service works with few commands at once."""
    limits = "-n 64" if hard else "-Sn 64"
    async with serving(tmp_path / "state", *limited(limits), SUPERVISOR__MAX_RUNNING=2) as service:
        results = await asyncio.gather(*(service.run(f"ulimit -Sn; exit {code}") for code in range(8)))
        assert [result["exit_code"] for result in results] == list(range(8))
        assert {result["stdout"] for result in results} == {"64\n"}
        assert [entry for entry in service.log if entry["level"] == "error"] == []


@pytest.mark.usefixtures("only_whole")
async def test_n4_many_connections_take_all_descriptors(tmp_path: Path) -> None:
    """More connections than descriptors: jobs go on, the log stays small, and afterwards everything works."""

    @contextlib.contextmanager
    def connected() -> Iterator[None]:
        host, port = urlsplit(service.url).netloc.split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(contextlib.closing(socket.create_connection((host, int(port)), 5)))
            yield

    async with serving(tmp_path / "state", *limited("-n 120")) as service:
        ordeal = Ordeal(service, tmp_path)
        await ordeal.run(connected, hold=3)
        lines = [entry for entry in service.log if entry["logger"] != "shellrunner.audit"]
        assert len(lines) < 50, lines[-20:]


@pytest.mark.usefixtures("root", "only_whole")
async def test_no_more_processes(open_path: Path, need: Need) -> None:
    """The service's user has as many processes as it may: nothing more starts, and what is reported is true."""
    home = open_path / "home"
    home.mkdir()
    os.chown(home, ORDINARY.pw_uid, ORDINARY.pw_gid)
    hog = "for i in $(seq 150); do sleep 600 & done; echo full; wait"

    @contextlib.contextmanager
    def hogged() -> Iterator[None]:
        command = ["setpriv", f"--reuid={ORDINARY.pw_uid}", "--clear-groups", "setsid", "sh", "-c", hog]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"full\n"
            try:
                yield
            finally:
                with contextlib.suppress(ProcessLookupError):
                    while True:  # until the last one was waited for
                        os.killpg(process.pid, signal.SIGKILL)
                        process.poll()
                        time.sleep(0.01)

    *shell, script = as_user(ORDINARY, open_path / "shown", ["prlimit", "--nproc=100"])
    prefix = [*shell, f'{script} "$@"', "sh"]
    token = {"name": "t", "hash": hash_of("surroundings"), "scopes": ["read", "run", "admin"]}
    try:
        async with serving(home / "state", *prefix, AUTH__TOKENS=json.dumps([token])) as service:
            await service.session.close()
            service.session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"})
            await Ordeal(service, home).run(hogged, hold=2)
            with hogged():
                assert await service.stop() == 0
                await service.launch()
                assert await service.ended() == 1
                assert service.log[-1]["level"] == "fatal"
            await service.start()
            assert (await service.run("exit 9"))["exit_code"] == 9
    except AssertionError as error:
        need(f"'status': {UNREACHABLE}" not in str(error), "other users cannot reach this Python")
        raise


@pytest.mark.heavy
@pytest.mark.usefixtures("root")
async def test_full_directories_for_temporary_files(tmp_path: Path) -> None:
    """Neither /tmp nor /dev/shm nor /var/tmp has space: the service needs none there."""
    mounts = "".join(
        f"mount -t tmpfs -o size=16k none {path} && head -c 16k /dev/zero > {path}/full; "
        for path in ("/dev/shm", "/var/tmp")
    )
    async with serving(tmp_path / "state", "unshare", "--mount", "sh", "-c", mounts + 'exec "$@"', "sh") as service:
        await asyncio.gather(*(service.run("seq 20000", labels={"n": str(n)}) for n in range(20)))
        for path in ("/api/results?sort=-duration&q=seq", "/api/jobs?label=n:3&sort=queue", "/metrics"):
            assert (await service.get(path))[0] == 200
        status, _, body = await service.ask("DELETE", "/api/jobs?q=seq&confirm=true")
        assert (status, body["deleted"]) == (200, 20)


@pytest.mark.heavy
async def test_no_thread_is_started_later(service: Service) -> None:
    """What needs a thread while it works has it from the start, when there were descriptors and processes for it."""

    def threads() -> set[str]:
        return {*os.listdir(f"/proc/{service.process.pid}/task")}

    before = threads()
    results = await asyncio.gather(*(service.run("head -c 200000 /dev/zero") for _ in range(6)))
    for path in ("/", "/api/openapi.json", *(f"/api/results/{each['result_id']}/stdout" for each in results)):
        assert (await service.get(path))[0] == 200
    assert (await service.ask("DELETE", "/api/jobs?q=head&confirm=true"))[2]["deleted"] == 6
    await until(lambda: not list((service.state_dir / "runs").iterdir()))
    assert threads() == before
