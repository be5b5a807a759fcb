"""Few descriptors: connections and commands share them, the API goes on answering, and the log is not flooded."""

import asyncio
import contextlib
import logging
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from shellrunner import log
from shellrunner.service.process.descriptors import share
from tests.support.service import Service
from tests.support.waiting import until

TOO_LOW = "open files is too low"


@pytest.mark.parametrize(
    ("available", "connections", "running", "found"),
    [
        (2000, 1000, 8, (1000, 8)),
        (1016, 1000, 8, (1000, 8)),
        (900, 1000, 8, (884, 8)),
        (100, 1000, 100, (50, 25)),
        (100, 10, 100, (10, 45)),
        (13, 1000, 8, (6, 3)),
        (-5, 1000, 8, (0, 0)),
    ],
)
def test_descriptors_are_shared(available: int, connections: int, running: int, found: tuple[int, int]) -> None:
    """All if there are enough; else what commands do not need is for connections, but at least half of them."""
    assert share(available, connections, running) == found


def with_limit(state_dir: Path, limit: str) -> Service:
    """Return a service that will be started with this limit of open files (options of ulimit)."""
    service = Service(state_dir)
    service.program = ["/bin/sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *service.program]
    return service


@pytest.mark.heavy
async def test_n4_a_limit_of_64_keeps_the_api_answering_while_connections_are_hoarded(tmp_path: Path) -> None:
    """A hundred idle connections, then more jobs than fit: everything runs, and the log has a few lines."""
    service = await with_limit(tmp_path / "state", "-n 64").start()
    hoarded: list[asyncio.StreamWriter] = []
    try:
        (warned,) = [entry for entry in service.log if TOO_LOW in entry["event"]]
        assert 2 <= warned["max_connections"] <= 16
        jobs = [await service.submit("ulimit -n; sleep 0.1") for _ in range(12)]  # the session's connection stays
        host, port = service.url.removeprefix("http://").split(":")
        for _ in range(100):
            with contextlib.suppress(ConnectionError):
                hoarded.append((await asyncio.open_connection(host, int(port)))[1])
        results = [await service.result(job) for job in jobs]
        assert {(result["exit_code"], result["stdout"]) for result in results} == {(0, "64\n")}
    finally:
        for each in hoarded:
            each.close()
        await service.clear_away()
    lines = [entry for entry in service.log if entry["level"] in ("warning", "error")]
    assert len(lines) < 10, lines


@pytest.mark.heavy
async def test_n4_without_a_descriptor_nothing_is_accepted_and_one_line_says_so(tmp_path: Path) -> None:
    """The limit is lowered under the running service: one line for each listener, and it accepts again afterwards."""
    service = await Service(tmp_path / "state").start()
    try:
        pid = service.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        host, port = service.url.removeprefix("http://").split(":")
        writers = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(3)]
        await until(lambda: [entry for entry in service.log if "out of system resource" in entry["event"]])
        await asyncio.sleep(1.5)  # asyncio tries again each second
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert (await service.get("/healthz"))[0] == 200
        for writer in writers:
            writer.close()
    finally:
        await service.clear_away()
    assert len([entry for entry in service.log if "out of system resource" in entry["event"]]) == 1


# The service, whose calls of one kind fail as without descriptors for as long as a file is there.
_WITHOUT_DESCRIPTORS = """
import errno, os, sys
call, failing_file = {call!r}, {failing!r}
real = getattr(os, call)
def failing(path, *arguments, **options):
    name = path if isinstance(path, str) else os.readlink(f"/proc/self/fd/{{path}}")
    of_slots = name.endswith((".slot", "/slots"))
    if of_slots and os.path.exists(failing_file):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return real(path, *arguments, **options)
from shellrunner.supervisor.supervisor import Supervisor
run = Supervisor.run
async def failing_run(self):
    setattr(os, call, failing)
    await run(self)
Supervisor.run = failing_run
from shellrunner.cli import main
main()
"""


def without_descriptors(service: Service, call: str) -> Path:
    """Have this call of the supervisor fail for slots while a file is there; return it."""
    failing = service.state_dir.with_name("failing")
    program = _WITHOUT_DESCRIPTORS.format(call=call, failing=str(failing))
    service.program = [sys.executable, "-c", program, "serve", "--port", "0"]
    return failing


@pytest.mark.heavy
@pytest.mark.parametrize("call", ["listdir", "open"])
async def test_n4_a_job_is_adopted_once_the_slots_can_be_looked_at(tmp_path: Path, call: str) -> None:
    """A server that finds no descriptors when it starts says so, ends nothing, and goes on when there are some."""
    service = await Service(tmp_path / "state").start()
    try:
        job = await service.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 7")
        await service.running(job)
        await service.kill()
        failing = without_descriptors(service, call)
        failing.touch()
        await service.start()
        await until(lambda: [entry for entry in service.log if "retrying" in entry["event"]])
        waiting = await service.submit("exit 8")
        status, _, ready = await service.get("/readyz")
        assert (status, ready["reasons"]) == (503, ["no-keeper"])
        assert (await service.status(waiting))["state"] == "queued"
        assert (await service.status(job))["state"] == "running"
        failing.unlink()
        assert (await service.result(waiting))["exit_code"] == 8
        (tmp_path / "go").touch()
        assert (await service.result(job))["exit_code"] == 7
        assert (await service.get("/readyz"))[0] == 200
    finally:
        await service.clear_away()
    assert [entry for entry in service.log if entry["level"] == "fatal"] == []


@pytest.mark.heavy
@pytest.mark.parametrize("call", ["open", "rename"])
async def test_n4_an_unknown_keeper_is_seen_to_its_end_without_descriptors(tmp_path: Path, call: str) -> None:
    """Its slot is read, and quarantined when it is gone, as soon as that can be done; the server goes on."""
    service = await Service(tmp_path / "state").start()
    slots, quarantined = service.state_dir / "slots", service.state_dir / "slots" / "aside"
    try:
        job = await service.submit(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
        await service.running(job)
        await service.stop()
        for path in service.state_dir.glob("history.db*"):
            path.unlink()
        failing = without_descriptors(service, call)
        service.program.append("--new-history")
        if call == "open":
            failing.touch()
        await service.start()
        if call == "rename":
            await until(lambda: [entry for entry in service.log if "not in the history" in entry["event"]])
            failing.touch()
            (tmp_path / "go").touch()
        await until(lambda: [entry for entry in service.log if "retrying" in entry["event"]])
        assert list(slots.glob("*.slot"))
        failing.unlink()
        (tmp_path / "go").touch()
        await until(lambda: list(quarantined.glob("*.slot")))
    finally:
        await service.clear_away()
    assert [entry for entry in service.log if entry["level"] == "fatal"] == []


@pytest.mark.heavy
async def test_a_limit_that_is_too_low_for_anything_is_refused_in_words(tmp_path: Path) -> None:
    """Exit code 2, and the message names both numbers and how to raise the limit."""
    service = with_limit(tmp_path / "state", "-n 45")
    with pytest.raises(AssertionError, match=r"the limit of open files is 45, and the service needs .*LimitNOFILE="):
        await service.start()
    assert service.process.returncode == 2
    await service.clear_away()


@pytest.mark.heavy
async def test_the_fork_server_has_more_descriptors_than_its_commands(tmp_path: Path) -> None:
    """With a soft limit of 24 and a higher hard one, 20 commands run at once, each with the soft limit."""
    service = with_limit(tmp_path / "state", "-Sn 24")
    await service.start(SUPERVISOR__MAX_RUNNING=20)
    try:
        wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; ulimit -Sn"
        jobs = [await service.submit(wait) for _ in range(20)]
        for job in jobs:
            await service.running(job)
        (tmp_path / "go").touch()
        assert {(await service.result(job))["stdout"] for job in jobs} == {"24\n"}
        assert [entry for entry in service.log if TOO_LOW in entry["event"]] == []
    finally:
        await service.clear_away()


def test_a_repeated_line_is_written_once_a_minute_with_a_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ours those that say so, of libraries each; then the number of those that were suppressed."""
    now = [0.0]
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file:
        handler = log.JsonLinesHandler(file.fileno())
        monkeypatch.setattr(handler, "_repeats", log._Repeats(lambda: now[0]))

        def write(name: str, message: str, **extra: Any) -> None:
            handler.emit(logging.makeLogRecord({"name": name, "levelname": "ERROR", "msg": message, **extra}))

        for _ in range(100):
            write("asyncio", "no descriptors\nsocket: 5")
            write("shellrunner.supervisor", "no keeper", repeats="keeper", reason="EMFILE")
        for number in range(2):
            write("shellrunner.supervisor", "job lost", job=number)
        now[0] = 61.0
        write("shellrunner.web", "other")
        write("asyncio", "no descriptors\nsocket: 5")
    events = [(line.split('"event":"')[1].split('"')[0], line) for line in path.read_text().splitlines()]
    assert [event for event, _ in events] == [
        "no descriptors\\nsocket: 5", "no keeper", "job lost", "job lost",
        "repeated log lines suppressed", "repeated log lines suppressed", "other", "no descriptors\\nsocket: 5",
    ]  # fmt: skip
    assert '"repeated":"asyncio no descriptors","lines":99' in events[4][1]
    assert '"repeated":"keeper","lines":99' in events[5][1]
    assert '"repeats"' not in path.read_text()
