"""The service as a whole: notifications to systemd, readiness, files, logs, signals."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shellrunner.service.health import Health
from shellrunner.store import Retention
from shellrunner.store.sqlite.composition import open_store
from shellrunner.systemd.notify import Notifier
from tests.support.selected_service import new_service
from tests.support.service import InProcess, Service
from tests.support.waiting import WAIT_TIMEOUT, until


class Notes:
    """The socket on which systemd would listen, and the notifications sent to it."""

    def __init__(self, path: Any) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._received: list[Any] = []

    def count(self, word: Any) -> Any:
        """Return how many notifications so far have a line that begins so."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._received += self._socket.recv(4096).decode().split("\n")
        return sum(line.startswith(word) for line in self._received)

    async def wait_for(self, word: Any, times: int = 1) -> None:
        """Wait until this notification was received so often."""
        await until(lambda: self.count(word) >= times, what=f"systemd receives {word}")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Any]:
    """Yield the notifications to systemd."""
    listening = Notes(tmp_path / "notify")
    yield listening
    listening.close()


@pytest.mark.heavy
async def test_systemd_is_notified_of_start_life_and_stop(tmp_path: Path, notes: Any) -> None:
    """READY=1 when it listens, WATCHDOG=1 again and again after a write, STOPPING=1 at SIGTERM; no job can do it."""
    service = Service(tmp_path / "state")
    service.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    await service.start()
    await notes.wait_for("READY=1")
    await notes.wait_for("WATCHDOG=1", times=3)
    result = await service.run("env")
    assert "NOTIFY_SOCKET" not in result["stdout"]
    assert await service.stop() == 0
    await notes.wait_for("STOPPING=1")
    await service.clear_away()


@pytest.mark.heavy
async def test_systemd_is_asked_for_time_while_a_stop_waits(tmp_path: Path, notes: Any) -> None:
    """With on_stop=drain the stop may take longer than TimeoutStopSec: more time is asked for."""
    service = Service(tmp_path / "state", SUPERVISOR__ON_STOP="drain")
    service.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    await service.start()
    job = await service.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
    await service.running(job)
    service.process.terminate()
    await notes.wait_for("EXTEND_TIMEOUT_USEC=")
    (tmp_path / "go").touch()
    assert await service.ended() == 0
    await service.clear_away()


async def test_a_history_that_cannot_be_written_is_not_ready_and_keeps_the_watchdog_waiting(
    tmp_path: Path, notes: Any
) -> None:
    """While writes fail, /readyz has a reason, and systemd's watchdog gets no notification."""
    async with open_store(tmp_path / "state", Retention(days=None, jobs=None, bytes=None)) as store:
        notifier = Notifier(str(tmp_path / "notify"))
        health = Health(store, notifier)
        await health.check()
        assert (notes.count("WATCHDOG=1"), health.failures()) == (1, [])
        store._engine.writes.close()  # as good as a dead disk: every write fails from now on
        for _ in range(3):
            await health.check()
        assert notes.count("WATCHDOG=1") == 1
        assert len(health.failures()) == 1
        notifier.close()


@pytest.mark.heavy
async def test_a_crash_of_the_supervisor_ends_the_process_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the supervisor ends the service with status 1; a running job is not affected."""
    async with InProcess(tmp_path / "state") as service:
        status, _, _ = await service.get("/readyz")
        assert status == 200
        job = await service.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 7")
        await service.running(job)
        monkeypatch.setattr("shellrunner.supervisor.supervisor.Supervisor._add_worker", _bug)
        await service.submit("true")
        for keeper in service.keepers():
            if keeper != service.keeper_of(job):
                service.signal(keeper, signal.SIGKILL)
        await asyncio.wait([service.serving], timeout=WAIT_TIMEOUT)
        assert service.serving.result() == 1
    (tmp_path / "go").touch()
    after = Service(tmp_path / "state")
    await after.start()
    assert (await after.result(job))["exit_code"] == 7
    await after.clear_away()


@pytest.mark.heavy
async def test_a_crash_in_a_callback_of_the_supervisor_ends_the_process_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in what follows the record of an end ends the service with status 1, and the end is recorded."""
    monkeypatch.setattr("shellrunner.metrics.Metrics.observe", lambda *_: 1 / 0)
    async with InProcess(tmp_path / "state") as service:
        job = await service.submit("exit 7")
        await asyncio.wait([service.serving], timeout=WAIT_TIMEOUT)
        assert service.serving.result() == 1
    monkeypatch.undo()
    after = Service(tmp_path / "state")
    await after.start()
    assert (await after.result(job))["exit_code"] == 7
    await after.clear_away()


@pytest.mark.parametrize(
    ("part", "where"), [("health check", "health.Health.check"), ("reloader", "reload.Reloader._reload")]
)
async def test_a_crash_beside_the_server_ends_the_process_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str, where: str
) -> None:
    """A bug in a background task ends the service with status 1, and the log names the task."""
    monkeypatch.setattr("shellrunner.service.health.CHECK_INTERVAL", 0.05)
    async with InProcess(tmp_path / "state") as service:
        monkeypatch.setattr(f"shellrunner.service.{where}", _bug)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait([service.serving], timeout=WAIT_TIMEOUT)
        assert service.serving.result() == 1
    assert f"the {part} crashed" in caplog.text
    await Service(tmp_path / "state").clear_away()


async def _bug(*_: object) -> None:
    raise RuntimeError("a bug")


@pytest.mark.heavy
async def test_everything_it_keeps_is_for_its_user_only(service: Service) -> None:
    """The state directory is 0700, every file in it 0600 (sockets aside), whatever the umask."""
    await service.run("head -c 100000 /dev/zero; for i in $(seq 400); do echo x; echo y >&2; done")
    for folder, folders, files in os.walk(service.state_dir):
        for name in (*folders, *files):
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if not stat.S_ISSOCK(mode):
                assert mode & 0o077 == 0, name
    assert stat.S_IMODE(service.state_dir.stat().st_mode) == 0o700


@pytest.mark.heavy
async def test_no_secret_is_in_the_log(tmp_path: Path) -> None:
    """At level debug, neither a variable's value nor standard input is in any line; the job's id is."""
    service = new_service(tmp_path / "state", LOG__LEVEL="debug")
    await service.start()
    job = await service.submit("cat; echo $TOKEN", env={"TOKEN": "s3cret-env"}, stdin="s3cret-stdin")
    await service.result(job)
    await service.stop()
    assert "s3cret" not in str(service.log)
    assert {"job started", "job ended"} <= {line["event"] for line in service.log if line.get("job") == job}
    await service.clear_away()


@pytest.mark.heavy
async def test_a_second_signal_ends_the_waiting(tmp_path: Path) -> None:
    """With on_stop=drain a second SIGTERM stops at once; running jobs continue until the next start."""
    service = new_service(tmp_path / "state", SUPERVISOR__ON_STOP="drain")
    await service.start()
    job = await service.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 7")
    await service.running(job)
    service.terminate()
    await until(lambda: any(line["event"] == "waiting for running jobs" for line in service.log))
    assert await service.stop() == 0
    await service.start()
    (tmp_path / "go").touch()
    assert (await service.result(job))["exit_code"] == 7
    await service.clear_away()


@pytest.mark.heavy
async def test_a_service_stops_when_its_terminal_is_closed(tmp_path: Path) -> None:
    """On a terminal that is gone its log would go nowhere; a SIGHUP while it is open only reloads."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    command = ["serve", "--state-dir", str(tmp_path / "state"), "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(
        "setsid", "-c", sys.executable, "-m", "shellrunner", *command, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    shown = bytearray()

    def shows(text: bytes) -> bool:
        with contextlib.suppress(BlockingIOError):
            shown.extend(os.read(master, 1 << 16))
        return text in shown

    try:
        await until(lambda: shows(b"http://127.0.0.1:"), what="it is started")
        process.send_signal(signal.SIGHUP)
        await until(lambda: shows(b"reloaded"), what="it is reloaded")
        os.close(master)
        async with asyncio.timeout(WAIT_TIMEOUT):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
