"""What surrounds a keeper fails: its slot, its state directory, its fork server, its connection, its end."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shellrunner.keeper.protocol import PROTOCOL, Message
from shellrunner.supervisor import supervisor
from shellrunner.supervisor.keeper_connection import KeeperConnection
from tests.faults.failing_calls import Scenario, failing_fork_servers, world
from tests.faults.injector import Plan
from tests.support import measurement
from tests.support.keepers import ForkServer, record_of, start
from tests.support.processes import lives
from tests.support.waiting import until

Program = Callable[[str], None]
# Loses the capabilities by which root may enter any directory, as a service of another user never had them.
_UNPRIVILEGED = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: for the next execve
os.execv(sys.executable, [sys.executable, "-I", "-S", {program!r}, *sys.argv[1:]])
"""


@pytest.fixture
def use_program(monkeypatch: pytest.MonkeyPatch) -> Program:
    """Return a function that has fork servers started from another program."""
    return lambda path: monkeypatch.setattr(measurement, "fork_server_program", lambda: path)


@pytest.fixture
def failing(tmp_path: Path, use_program: Program) -> Iterator[ForkServer]:
    """Yield a fork server whose keepers fail as planned."""
    with failing_fork_servers(tmp_path):
        use_program(str(tmp_path / "fork_server.py"))
        server = ForkServer(tmp_path / "state")
        yield server
        server.end()


def _environment(plan: Plan) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "FAULTS": str(plan)}


def test_c9_a_start_that_is_not_carried_out_is_answered(fork_server: ForkServer) -> None:
    """A keeper that has a command, or children that were let go, refuses another; a repeated start is not refused."""
    keeper = fork_server.keeper()
    start(keeper, 1, "sleep 0.3")
    start(keeper, 2, "true")
    start(keeper, 1, "sleep 0.3")
    assert keeper.receive() == {"say": "refused", "job": 2, "token": "t"}
    assert (keeper.receive()["job"], keeper.hello["protocol"]) == (1, PROTOCOL)
    start(keeper, 3, "sleep 0.6 &", leave_children=True)
    assert keeper.receive()["retiring"]
    start(keeper, 4, "true")
    assert keeper.receive()["say"] == "refused"
    slot = fork_server.slot()
    assert slot.find(2, "t") is slot.find(4, "t") is None
    slot.close()


@pytest.mark.heavy
async def test_c9_what_was_let_go_survives_its_keeper(fork_server: ForkServer, tmp_path: Path) -> None:
    """It goes on and may write, though its keeper is killed; what another killed keeper left is ended as ever."""
    keeper, other = fork_server.keeper(1), fork_server.keeper(2)
    ticks = tmp_path / "ticks"
    body = f"while head -c 4000 /dev/zero; do echo tick >> {ticks}; sleep 0.01; done"
    start(keeper, 1, f"echo $$; sh -c '{body}' & echo $! > {tmp_path}/pid", leave_children=True)
    assert keeper.receive()["retiring"]
    daemon = int((tmp_path / "pid").read_text())
    os.kill(keeper.hello["identity"]["pid"], signal.SIGKILL)
    assert fork_server.receive()["say"] == "died"
    start(other, 2, f"echo $$ > {tmp_path}/other; sleep 600")
    await until(lambda: (tmp_path / "other").exists() and (tmp_path / "other").read_text())
    os.kill(other.hello["identity"]["pid"], signal.SIGKILL)
    assert fork_server.receive()["swept"]
    assert not lives(int((tmp_path / "other").read_text()))
    seen = len(ticks.read_bytes())
    await until(lambda: len(ticks.read_bytes()) > seen + 5 * 40)  # more than a pipe holds
    assert lives(daemon)
    os.kill(daemon, signal.SIGKILL)


@pytest.mark.heavy
@pytest.mark.parametrize("times", [0, 2])
async def test_c9_an_end_that_cannot_be_written_is_sent_and_kept(failing: ForkServer, times: int) -> None:
    """The message has the end itself, also for the next server, until it is recorded or can be written."""
    keeper, slot = failing.keeper(), failing.slot()
    pid = keeper.hello["identity"]["pid"]
    # The start, the pid, which is shown after a while, and the end.
    start(keeper, 1, "sleep 0.05; exit 5", env=_environment(Plan("k", "os.pwrite", 3, times, "EROFS", "end")))
    ended = keeper.receive()
    assert (ended["say"], ended["job"], ended["end"]["exit_code"]) == ("ended", 1, 5)
    assert record_of(slot, 1).end is None
    keeper.connection.close()
    if times:
        await until(lambda: not lives(pid))
        assert record_of(slot, 1).end["exit_code"] == 5
    else:
        again = failing.reconnect(1)
        assert (again.hello["job"], again.hello["token"]) == (1, "t")
        assert again.receive() == ended
        again.send(do="recorded", job=1, token="t")
        again.connection.close()
        await until(lambda: not lives(pid))
    slot.close()


def test_c9_a_start_that_cannot_be_recorded_does_not_happen(failing: ForkServer, tmp_path: Path) -> None:
    """A command of which the slot cannot say that it was started is not started; the next one is."""
    keeper = failing.keeper()
    plan = Plan("k", "os.pwrite", 1, 1, "ENOSPC", "begin")
    start(keeper, 1, f"touch {tmp_path}/started", env=_environment(plan))
    end = keeper.receive()["end"]
    assert end["ending"] == "failed_to_start"
    assert end["detail"] == "its start could not be recorded: No space left on device"
    start(keeper, 2, "exit 6")
    assert keeper.receive()["job"] == 2
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("mode", [0o600, 0o000])
def test_c9_the_state_directory_may_be_closed_to_a_running_keeper(
    tmp_path: Path, use_program: Program, mode: int
) -> None:
    """A chmod of it, by mistake, neither ends a command nor denies the start of one; both ends are recorded."""
    program = tmp_path / "unprivileged.py"
    program.write_text(_UNPRIVILEGED.format(program=measurement.fork_server_program()))
    use_program(str(program))
    server = ForkServer(tmp_path / "state")
    keeper, slot = server.keeper(), server.slot()
    try:
        start(keeper, 1, f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo out; exit 3")
        server.state.chmod(mode)
        (tmp_path / "go").touch()
        assert keeper.receive()["job"] == 1
        start(keeper, 2, "head -c 100000 /dev/zero; exit 4")
        assert keeper.receive()["job"] == 2
        ends = [record_of(slot, job).end for job in (1, 2)]
        assert [end["exit_code"] for end in ends] == [3, 4], ends
        assert ends[0]["stdout"] == 4
        assert ends[1]["stdout"] + ends[1]["stdout_dropped"] == 100_000
        assert ends[1]["stdout_dropped"], "the keeper can write there all the same"
    finally:
        server.state.chmod(0o700)
        slot.close()
    server.end()


async def test_c9_an_end_that_was_not_received_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is lost does not leave its job running for ever: a slow look at the slots finds the end."""
    monkeypatch.setattr(supervisor, "_LOOK_INTERVAL", 0.2)
    lost: list[Message] = []

    def lose(self: KeeperConnection, message: Message, receive: Any = KeeperConnection.message_received) -> None:
        if message["say"] == "ended" and not lost:
            lost.append(message)
        else:
            receive(self, message)

    monkeypatch.setattr(KeeperConnection, "message_received", lose)
    async with world(tmp_path / "state") as there:
        await there.run(Scenario("missed", "echo out", output=b"out\n"), None, "missed")
        assert lost
