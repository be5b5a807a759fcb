"""A stop at any moment of the start ends the server with 0, and leaves neither a process nor a socket behind."""

import asyncio
import signal
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from shellrunner.store import Retention
from shellrunner.store.sqlite.composition import open_store
from shellrunner.supervisor.fork_server_connection import ForkServerConnection
from shellrunner.tasks import background_task, has_failed
from tests.support.stop_moments import StartingServer, handles_sigterm
from tests.support.waiting import WAIT_TIMEOUT, until

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP

MOMENTS: dict[str, tuple[Callable[[StartingServer], Any], Sequence[int]]] = {
    "fork server": (lambda server: server.has("keepers.log"), [TERM]),
    "history": (lambda server: server.has("history.db*"), [INT]),
    "history, twice": (lambda server: server.has("history.db*"), [HUP, TERM, TERM]),
    "keepers, twice": (lambda server: server.has("slots/*.sock*"), [HUP, INT, TERM]),
}


async def test_a_stop_while_modules_are_loaded(tmp_path: Path) -> None:
    """SIGTERM is handled before half a second of imports; SIGHUP before it does not kill; the log has a line."""
    server = await StartingServer.start(tmp_path / "state", real_exec=True)
    log = await server.stop_when(lambda server: handles_sigterm(server.pid), [HUP, TERM])
    assert [(entry["event"], entry["signal"]) for entry in log] == [
        ("stopped before the start was complete", "SIGTERM")
    ]
    assert not server.state_dir.exists()


@pytest.mark.heavy
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_stop_during_the_start(tmp_path: Path, moment: str) -> None:
    """While the fork server is launched, the history is opened, or keepers are forked; also with two signals."""
    server = await StartingServer.start(tmp_path / "state")
    log = await server.stop_when(*MOMENTS[moment])
    assert log[-1]["event"] in ("stopped", "stopped before the start was complete")
    await server.nothing_is_left()


async def test_a_long_opening_of_a_history_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop while a history is opened does not wait until that is done, which may take minutes."""
    migrating = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless_migration(db: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(migrating.set)
        db.execute(
            "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number) SELECT sum(n) FROM number"
        )

    async def opened() -> None:
        async with open_store(tmp_path, Retention(days=None, jobs=None, bytes=None)):
            raise AssertionError("it cannot be opened")

    monkeypatch.setattr("shellrunner.store.sqlite.schema.migrate", endless_migration)
    opening = asyncio.create_task(opened())
    async with asyncio.timeout(WAIT_TIMEOUT):
        await migrating.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await until(lambda: not [thread for thread in threading.enumerate() if "_connection_worker" in thread.name])


async def test_a_fork_that_is_cancelled_as_it_is_answered_is_cancelled() -> None:
    """Else the keeper pool goes on while it is being stopped (`asyncio.wait_for` of Python 3.11 does that)."""
    process: Any = None
    connection = ForkServerConnection(process)
    forking = asyncio.create_task(connection.fork(1, {}))
    await asyncio.sleep(0)
    connection.message_received({"say": "forked", "keeper": 1})
    forking.cancel()
    await asyncio.wait([forking])
    assert forking.cancelled()


async def test_what_ended_a_background_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A crash is logged with the task's name, also in the cleanup of a cancelled task, and so is an early end."""

    async def crash_at_the_end() -> None:
        try:
            await asyncio.sleep(WAIT_TIMEOUT)
        finally:
            raise RuntimeError("a bug")

    async with background_task("first", crash_at_the_end()) as first, background_task("second", asyncio.sleep(0)):
        await asyncio.sleep(0.01)
    async with background_task("third", asyncio.sleep(WAIT_TIMEOUT)) as third:
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "the second ended although nobody stopped it",
        "the first crashed",
    ]
    assert (has_failed(first), has_failed(third)) == (True, False)
