"""Keepers and the fork server without a server, through their protocol; slots, output, process trees."""

import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellrunner.keeper import process_tree
from shellrunner.keeper.identity import ProcessIdentity
from shellrunner.keeper.protocol import Unpacker, pack
from shellrunner.keeper.recorder import Recorder
from shellrunner.keeper.slot import (
    DATA_CAPACITY,
    ENTRY_SIZE,
    INDEX_CAPACITY,
    PAGE_SIZE,
    SlotReader,
    SlotWriter,
    data_path,
    parse_index,
)
from shellrunner.model import Claim, Ending, JobSpec
from shellrunner.store.output import spill
from shellrunner.store.output.spill import Spill
from shellrunner.supervisor.verdict import Ended, NeverStarted, judge, new_claim_token
from tests.support.keepers import ForkServer, Talk, ended, keep, record_of, start
from tests.support.processes import lives
from tests.support.users import sees_keepers
from tests.support.waiting import until


def test_a_keeper_is_used_again_and_writes_into_its_records_in_turn(fork_server: ForkServer) -> None:
    """A keeper runs one command after another; the slot holds two records, and each end is its own."""
    keeper = fork_server.keeper()
    slot = fork_server.slot()
    for job in range(1, 8):
        start(keeper, job, f"echo {job}; exit {job}")
        assert keeper.receive() == {"say": "ended", "job": job, "token": "t", "retiring": False}
        record = record_of(slot, job)
        assert record.end["exit_code"] == job
        assert slot.data(record, 0, record.end["stdout"]) == f"{job}\n".encode()
        assert record.number == (job - 1) % 2
        assert slot.still_holds(record)
    assert [record.job for record in slot.records()] == [7, 6]
    assert slot.find(5, "t") is None
    slot.close()


def test_a_keeper_handles_what_was_sent_before_its_server_died(fork_server: ForkServer, tmp_path: Path) -> None:
    """A start that was sent is carried out although the connection ended right behind it; then it exits."""
    keeper = fork_server.keeper()
    os.kill(keeper.hello["identity"]["pid"], signal.SIGSTOP)
    start(keeper, 1, f"echo marked > {tmp_path}/mark; exit 4")
    keeper.connection.close()
    slot = fork_server.slot()
    assert not slot.keeper_is_gone()
    os.kill(keeper.hello["identity"]["pid"], signal.SIGCONT)
    assert fork_server.receive()["status"] == 0
    assert slot.keeper_is_gone()
    assert record_of(slot, 1).end["exit_code"] == 4
    assert (tmp_path / "mark").read_text() == "marked\n"
    slot.close()


def test_an_idle_keeper_exits_with_its_server_and_takes_its_socket_along(fork_server: ForkServer) -> None:
    """A keeper that keeps nothing does not outlive the connection."""
    keeper = fork_server.keeper(3)
    keeper.connection.close()
    report = fork_server.receive()
    assert (report["say"], report["keeper"], report["status"], report["orphans"]) == ("died", 3, 0, [])
    assert not (fork_server.state / "slots" / "3.sock").exists()


async def test_the_fork_server_ends_what_a_killed_keeper_kept(fork_server: ForkServer) -> None:
    """After kill -9 of a keeper its whole tree is ended and reaped, and reported with the statuses."""
    keeper = fork_server.keeper()
    start(keeper, 1, "setsid sleep 600 & sleep 600 & echo $! ; wait")
    slot = fork_server.slot()
    record = await until(lambda: (r := slot.find(1, "t")) and r.progress.get("stdout") and r)
    child = int(slot.data(record, 0, record.progress["stdout"]))
    os.kill(keeper.hello["identity"]["pid"], signal.SIGKILL)
    report = fork_server.receive()
    assert os.WTERMSIG(report["status"]) == signal.SIGKILL
    assert report["swept"]
    assert len(report["orphans"]) >= 3
    assert not lives(child)
    slot.close()


def test_the_fork_server_is_gone_after_its_last_keeper(tmp_path: Path) -> None:
    """It outlives the server for as long as a keeper has work, and no longer."""
    server = ForkServer(tmp_path / "state")
    keeper = server.keeper()
    start(keeper, 1, f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
    keeper.connection.close()
    server.connection.close()
    assert server.process.poll() is None
    (tmp_path / "go").touch()
    assert server.process.wait(20) == 0
    slot = server.slot()
    assert record_of(slot, 1).end["exit_code"] == 0
    slot.close()


def test_a_long_state_directory_is_no_problem(tmp_path: Path) -> None:
    """A socket's path may be longer than the 107 bytes of sun_path."""
    server = ForkServer(tmp_path / ("long-" * 30) / ("directory-" * 10))
    server.send(do="fork", keeper=1, header={"history": "h", "program": "t"})
    assert server.receive()["say"] == "forked"
    slots = os.open(server.state / "slots", os.O_RDONLY)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"/proc/self/fd/{slots}/1.sock")
    assert Talk(connection).receive()["say"] == "hello"
    os.close(slots)
    connection.close()
    server.connection.close()
    server.process.wait(20)


@pytest.mark.heavy
@sees_keepers
def test_no_descriptor_or_zombie_stays_in_a_keeper(fork_server: ForkServer, tmp_path: Path) -> None:
    """After many commands of every kind a keeper has the descriptors it began with, and no child."""
    keeper = fork_server.keeper()
    pid = keeper.hello["identity"]["pid"]
    before = sorted(os.listdir(f"/proc/{pid}/fd"))
    kinds: list[dict[str, Any]] = [
        {"command": "true"},
        {"command": "sleep 9 & echo x >&2"},
        {"command": "cat", "stdin": "text"},
        {"command": "true", "cwd": "/no/such"},
        {"command": "head -c 200000 /dev/zero"},
        {"command": "sleep 9", "timeout": 0.01},
        {"command": "yes", "output_bytes": 1000},
        {"command": "exec >&- 2>&-; sleep 0.01"},
    ]
    for job, kind in enumerate(kinds * 4, 1):
        start(keeper, job, **kind)
        assert keeper.receive()["job"] == job
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == before
    assert not process_tree.descendants(pid)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 5_000])
def test_the_limit_is_kept_to_the_byte(fork_server: ForkServer, size: int) -> None:
    """Up to the limit everything is stored; one byte more ends the job, and is counted."""
    keeper = fork_server.keeper()
    start(keeper, 1, f"head -c {size} /dev/zero", output_bytes=10)
    keeper.receive()
    slot = fork_server.slot()
    end = record_of(slot, 1).end
    assert end["stdout"] == min(size, 10)
    assert (end["ending"] == "output_limit") == (size > 10)
    if size > 10:
        assert 0 < end["stdout_dropped"] <= size - 10
    slot.close()


@pytest.mark.heavy
def test_a_keeper_never_waits_for_a_pipe_that_was_drained(fork_server: ForkServer) -> None:
    """A child that outlives its shell within the grace and holds the pipe does not stop the clock: KILL comes."""
    keeper = fork_server.keeper()
    start(keeper, 1, "(trap '' TERM; exec sleep 300) & yes", timeout=0.2, grace=0.3)
    keeper.receive()
    slot = fork_server.slot()
    end = record_of(slot, 1).end
    assert (end["ending"], end["signal"]) == ("timed_out", "SIGTERM")
    assert not process_tree.descendants(keeper.hello["identity"]["pid"])
    slot.close()


# Is traced by its own child, which fled to a session of its own and never takes the status: wait(2) has none for us.
TRACED = """
import ctypes, os, time
me, (reading, writing) = os.getpid(), os.pipe()
if os.fork() == 0:
    os.setsid()
    os.write(writing, b"%d" % ctypes.CDLL(None).ptrace(0x4206, me, 0, 0))
    time.sleep(600)
print(os.read(reading, 2).decode(), flush=True)
os._exit(4)
"""


@pytest.mark.parametrize("timeout", [None, 600])
def test_a_command_that_its_child_traces_ends_when_it_ends(
    keeping: tuple[Talk, SlotReader], timeout: int | None
) -> None:
    """Its end is its own and reported at once, and the tracer is killed like any other child; the keeper goes on."""
    argv = ["/usr/bin/env", "python3", "-c", TRACED]
    end, data = keep(*keeping, 1, "", argv=argv, timeout=timeout)
    assert data in (b"0\n", b"-1\n"), data
    if data == b"-1\n":
        pytest.skip("a child may not trace its parent here (Yama)")
    assert (end["ending"], end["exit_code"], end["detail"]) == ("exited", 4, None)
    assert not process_tree.descendants(keeping[0].hello["identity"]["pid"])
    assert keep(*keeping, 2, "echo next")[1] == b"next\n"


@pytest.mark.heavy
async def test_orphans_are_reaped_while_a_command_runs(fork_server: ForkServer) -> None:
    """A command that runs for long and detaches helpers leaves no zombies under its keeper meanwhile."""
    keeper = fork_server.keeper()
    start(keeper, 1, "for i in 1 2 3 4 5 6 7 8; do (true & ); done; sleep 1.2; (true & ); sleep 600", timeout=60)
    pid = keeper.hello["identity"]["pid"]
    await until(lambda: process_tree.descendants(pid))
    command = process_tree.descendants(pid)[0].pid
    await until(
        lambda: [child.zombie for child in process_tree.descendants(pid)] == [False] * 2 and _age(command) > 1.3
    )
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["job"] == 1
    start(keeper, 2, "exit 3")
    assert keeper.receive()["job"] == 2


@pytest.mark.parametrize("at_start", [True, False])
async def test_a_command_that_is_only_killed_gets_no_term(keeping: tuple[Talk, SlotReader], at_start: bool) -> None:
    """A cancel kills every group at once if the start or the cancel says so."""
    keeper, slot = keeping
    script = "trap 'echo trapped' TERM; timeout 60 sleep 60 & echo begun; timeout 60 sleep 60; echo next"
    start(keeper, 1, script, grace=60, **({"kill_only": True} if at_start else {}))
    pid = keeper.hello["identity"]["pid"]
    await until(lambda: len(process_tree.living(pid)) == 5)  # the shell, and both of each step
    keeper.send(do="cancel", job=1, token="t", **({} if at_start else {"kill_only": True}))
    assert keeper.receive()["say"] == "ended"
    end, data = ended(slot, 1)
    assert (end["ending"], end["signal"], data) == ("cancelled", "SIGKILL", b"begun\n")
    assert not process_tree.descendants(pid)


async def test_a_kill_lets_nobody_take_a_further_step(keeping: tuple[Talk, SlotReader]) -> None:
    """A shell that handles HUP gets none from the death of a parent, nor the time to go on after that of a child."""
    keeper, slot = keeping
    pid = keeper.hello["identity"]["pid"]
    for job in range(1, 7):  # two of three were seen to take it when parents were killed first
        start(keeper, job, "timeout 60 sh -c 'trap : HUP; sleep 60; echo next; sleep 60'; echo outer", kill_only=True)
        await until(lambda: len(process_tree.living(pid)) == 4)
        keeper.send(do="cancel", job=job, token="t")
        assert keeper.receive()["say"] == "ended"
        assert ended(slot, job)[1] == b""


def _age(pid: Any) -> Any:
    with open("/proc/uptime") as file:
        up = float(file.read().split()[0])
    return up - ProcessIdentity.from_pid(pid).start / os.sysconf("SC_CLK_TCK")


def test_a_failed_fork_harms_nobody(fork_server: ForkServer) -> None:
    """What cannot be made is reported; the fork server and its other keepers go on, and nothing is left behind."""
    fork_server.keeper(1)
    (fork_server.state / "slots" / "2.sock").mkdir()
    fork_server.send(do="fork", keeper=2, header={})
    report = fork_server.receive()
    assert (report["say"], report["keeper"]) == ("failed", 2)
    (fork_server.state / "slots" / "3.slot").touch()
    fork_server.send(do="fork", keeper=3, header={})
    assert fork_server.receive()["say"] == "failed"
    assert (fork_server.state / "slots" / "3.slot").exists()
    assert not (fork_server.state / "slots" / "2.slot").exists()
    keeper = fork_server.keeper(4)
    start(keeper, 1, "exit 5")
    assert keeper.receive()["job"] == 1


def test_a_slot_is_closed_once(tmp_path: Path) -> None:
    """Closing a slot again does not close the file that has its number by then."""
    directory = os.open(tmp_path, os.O_RDONLY)
    writer = SlotWriter.create(directory, "1.slot")
    reader = SlotReader(directory, "1.slot")
    number = reader.fd
    reader.close()
    other = os.open(tmp_path, os.O_RDONLY)
    assert other == number
    reader.close()
    os.fstat(other)
    for descriptor in (other, writer.fd, directory):
        os.close(descriptor)


# What a slot and its files say ------------------------------------------------------------------------------------


@st.composite
def _writes(draw: Any) -> Any:
    return draw(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 40_000)), max_size=12))


@settings(max_examples=60, deadline=None)
@given(writes=_writes(), limit=st.integers(1, 200_000))
def test_stored_output_is_a_true_beginning_of_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, writes: Any, limit: Any
) -> None:
    """Whatever is written in whatever pieces: the index has every stored byte's stream, and nothing is changed."""
    state = tmp_path_factory.mktemp("state")
    (state / "runs").mkdir()
    directory = os.open(state, os.O_RDONLY)
    slot = SlotWriter.create(directory, "1.slot")
    slot.write_header({})
    slot.begin({"job": 1, "token": "t", "wall": 0})
    recorder = Recorder(slot, directory, 1, "t", limit)
    whole = b""
    for number, (stream, size) in enumerate(writes):
        data = bytes([65 + number]) * size
        recorder.store(stream, data)
        whole += data
    recorder.sync()
    recorder.close()
    reader = SlotReader(directory, "1.slot")
    record = record_of(reader, 1)
    stored = record.progress.get("stdout", 0) + record.progress.get("stderr", 0)
    dropped = record.progress.get("stdout_dropped", 0) + record.progress.get("stderr_dropped", 0)
    assert stored + dropped == len(whole)
    assert stored == min(len(whole), limit)
    data = reader.data(record, 0, min(stored, DATA_CAPACITY))
    if stored > DATA_CAPACITY:
        data += (state / data_path(1, token="t")).read_bytes()
    assert data == whole[:stored]
    index = parse_index(reader.index(record, record.progress.get("entries", 0)))
    offsets = [0, 0]
    for entry, following in zip(index, [*index[1:], None], strict=False):
        assert entry.offset == offsets[entry.stream]
        assert entry.position == sum(offsets)
        offsets[entry.stream] += (following.position if following else stored) - entry.position
    assert offsets == [record.progress.get("stdout", 0), record.progress.get("stderr", 0)]
    reader.close()
    os.close(slot.fd)
    os.close(directory)


def test_index_beyond_the_slot_counts_towards_the_limit(tmp_path: Path) -> None:
    """Where streams change at every byte the index is larger than the output: together they keep the limit."""
    (tmp_path / "runs").mkdir()
    directory = os.open(tmp_path, os.O_RDONLY)
    slot = SlotWriter.create(directory, "1.slot")
    slot.begin({"job": 1, "token": "t", "wall": 0})
    recorder = Recorder(slot, directory, 1, "t", limit=100_000)
    for number in range(10_000):
        recorder.store(number % 2, b"x")
    size = sum(path.stat().st_size for path in (tmp_path / "runs").iterdir())
    assert sum(recorder.stored) + size <= 100_000 + ENTRY_SIZE
    assert recorder.over_limit
    assert sum(recorder.stored) + sum(recorder.dropped) == 10_000
    assert sum(recorder.stored) > INDEX_CAPACITY
    recorder.close()
    os.close(slot.fd)
    os.close(directory)


def test_a_full_disk_is_counted_and_ends_nothing(tmp_path: Path) -> None:
    """Bytes that do not fit are dropped and counted; what was stored before stays a prefix of the output."""
    (tmp_path / "runs").mkdir()
    directory = os.open(tmp_path, os.O_RDONLY)
    slot = SlotWriter.create(directory, "1.slot")
    slot.begin({"job": 1, "token": "t", "wall": 0})
    recorder = Recorder(slot, directory, 1, "t", limit=1 << 40)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
    try:
        for _ in range(10):
            recorder.store(0, b"x" * 50_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert recorder.stored[0] == DATA_CAPACITY + 200_000
    assert recorder.stored[0] + recorder.dropped[0] == 500_000
    assert not recorder.over_limit
    assert (tmp_path / data_path(1, token="t")).stat().st_size == 200_000
    recorder.close()
    os.close(slot.fd)
    os.close(directory)


@pytest.mark.parametrize("attempt", [1, 2, 30])
def test_each_attempt_has_its_own_files(
    keeping: tuple[Talk, SlotReader], fork_server: ForkServer, attempt: int
) -> None:
    """What does not fit into the slot is in files named after the attempt, which the slot records."""
    keeper, slot = keeping
    size = DATA_CAPACITY + 1000
    start(keeper, 12, f"head -c {size} /dev/zero", **({"attempt": attempt} if attempt > 1 else {}))
    keeper.receive()
    record = record_of(slot, 12)
    assert record.attempt == attempt
    stem = "12" if attempt == 1 else f"12.{attempt}"
    assert (fork_server.state / "runs" / f"{stem}.t.out").stat().st_size == 1000
    assert data_path(12, attempt, "t") == f"runs/{stem}.t.out"
    assert data_path(12, attempt) == f"runs/{stem}.out", "the name that earlier versions gave"
    with Spill(str(fork_server.state), 12, attempt, "t") as spill:
        assert len(spill.data(DATA_CAPACITY, 5000)) == 1000


def test_the_files_of_all_attempts_are_found_and_removed(tmp_path: Path) -> None:
    """A job's attempts are removed with it, others' files and what nobody knows are not."""
    (tmp_path / "runs").mkdir()
    names = [
        "7.out",
        "7.idx",
        "7.3.out",
        "7.3.a-b.idx",
        "70.out",
        "70.12.idx",
        "8.2.out",
        "x.out",
        "7.out.tmp",
        "07.out",
        "7.0.out",
    ]
    for name in names:
        (tmp_path / "runs" / name).touch()
    found = {(file.job, file.attempt, file.token) for file in spill.find_all(str(tmp_path))}
    assert found == {(7, 1, None), (7, 3, None), (7, 3, "a-b"), (70, 1, None), (70, 12, None), (8, 2, None)}
    spill.remove(str(tmp_path), 7, (None, None, "a-b"))
    left = set(names) - {"7.out", "7.idx", "7.3.out", "7.3.a-b.idx"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == left
    spill.remove(str(tmp_path), 70)
    assert (tmp_path / "runs" / "70.12.idx").exists()


# Verdicts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Iterator[tuple[Any, ...]]:
    """Yield a state directory with slot 1 in it: (path, descriptor, writer)."""
    for name in ("slots", "runs"):
        (tmp_path / name).mkdir()
    directory = os.open(tmp_path, os.O_RDONLY)
    slots = os.open(tmp_path / "slots", os.O_RDONLY)
    writer = SlotWriter.create(slots, "1.slot")
    writer.write_header({"history": "h"})
    yield tmp_path, directory, writer
    for descriptor in (directory, slots, writer.fd):
        os.close(descriptor)


def ended_by(directory: int, claim: Claim, keeper: Any) -> Ended:
    """Judge a job, which must have ended."""
    verdict = judge(directory, claim, keeper)
    assert isinstance(verdict, Ended)
    return verdict


def _claim(token: Any) -> Any:
    return Claim(1, token, 1, JobSpec(command="x"), 1000)


OTHER_BOOT = "00000000-1111111111111111"
END = {
    "ending": "exited", "exit_code": 3, "signal": None, "detail": None, "wall": 9, "started": 5, "duration": 0.1,
    "cpu_user": 0.0, "cpu_system": 0.0, "max_rss_bytes": None,
}  # fmt: skip


def test_silence_of_a_sound_slot_means_never_started_in_this_boot_only(state: tuple[Any, ...]) -> None:
    """No record: back to the queue in the same boot, `lost` after another, with no time of a start."""
    _, directory, _ = state
    assert judge(directory, _claim(new_claim_token()), "gone") == NeverStarted()
    lost = ended_by(directory, _claim(OTHER_BOOT), "gone").end
    assert (lost.ending, lost.started) == (Ending.LOST, None)


@pytest.mark.parametrize("length", [0, 100, 5000, 90_000, 170_000])
def test_silence_of_a_damaged_slot_means_lost(state: tuple[Any, ...], length: int) -> None:
    """A slot of which a part is missing is no proof that nothing was started."""
    path, directory, writer = state
    writer.begin({"job": 7, "token": "other", "wall": 0})
    os.truncate(path / "slots" / "1.slot", length)
    verdict = ended_by(directory, _claim(new_claim_token()), "gone")
    assert isinstance(verdict, Ended)
    assert verdict.end.ending is Ending.LOST


@pytest.mark.parametrize("token", [new_claim_token(), OTHER_BOOT], ids=["this boot", "another boot"])
def test_a_start_without_an_end_is_lost_with_its_output(state: tuple[Any, ...], token: Any) -> None:
    """Started, keeper gone, no end: `lost`, and its output is preserved."""
    _, directory, writer = state
    writer.begin({"job": 1, "token": token, "wall": 5})
    Recorder(writer, directory, 1, token, 1 << 30).store(0, b"seen")
    verdict = ended_by(directory, _claim(token), "gone")
    assert (verdict.end.ending, verdict.end.started) == (Ending.LOST, 5)
    assert (verdict.volume.stdout_bytes, verdict.head.data) == (4, b"seen")


def _end(writer: Any, directory: Any, token: Any, data: bytes = b"out") -> None:
    writer.begin({"job": 1, "token": token, "wall": 5})
    recorder = Recorder(writer, directory, 1, token, 1 << 30)
    recorder.store(0, data)
    recorder.close()
    writer.end(recorder.counts() | END)


@pytest.mark.parametrize("token", [new_claim_token(), OTHER_BOOT], ids=["this boot", "another boot"])
def test_a_whole_end_is_the_truth_in_any_boot(state: tuple[Any, ...], token: Any) -> None:
    """An end record whose sums agree is recorded as it is."""
    _, directory, writer = state
    _end(writer, directory, token)
    verdict = ended_by(directory, _claim(token), "gone")
    assert (verdict.end.ending, verdict.end.exit_code, verdict.head.data) == (Ending.EXITED, 3, b"out")


def test_a_later_attempt_is_judged_by_its_own_files(state: tuple[Any, ...]) -> None:
    """An end whose output lies in another attempt's files only is `lost`; in its own, it is the truth."""
    path, directory, writer = state
    own, first = data_path(1, 2, OTHER_BOOT), data_path(1, 1, OTHER_BOOT)
    for name, ending in ((own, Ending.EXITED), (first, Ending.LOST)):
        (path / own).unlink(missing_ok=True)
        writer.begin({"job": 1, "token": OTHER_BOOT, "wall": 5, "attempt": 2})
        recorder = Recorder(writer, directory, 1, OTHER_BOOT, 1 << 30, attempt=2)
        recorder.store(0, b"x" * 100_000)
        recorder.close()
        writer.end(recorder.counts() | END)
        os.rename(path / own, path / name)
        assert ended_by(directory, _claim(OTHER_BOOT), "gone").end.ending is ending


@pytest.mark.parametrize("damage", ["data", "end", "file"])
def test_an_end_whose_parts_do_not_agree_is_lost(state: tuple[Any, ...], damage: str) -> None:
    """After a power failure an end counts only with its output: torn data, torn end, missing file are `lost`."""
    path, directory, writer = state
    _end(writer, directory, OTHER_BOOT, b"x" * (100_000 if damage == "file" else 10))
    slot = path / "slots" / "1.slot"
    if damage == "file":
        os.truncate(path / data_path(1, token=OTHER_BOOT), 100)
    else:
        whole = bytearray(slot.read_bytes())
        at = whole.index(b"x" * 10) if damage == "data" else PAGE_SIZE + 1024 + 40
        whole[at] ^= 1
        slot.write_bytes(whole)
    assert ended_by(directory, _claim(OTHER_BOOT), "gone").end.ending is Ending.LOST


@pytest.mark.parametrize("letter", ["a", "\x01", "ж", "😀"])
def test_however_long_a_name_is_the_reason_is_reported(keeping: tuple[Talk, SlotReader], letter: str) -> None:
    """A directory or program of the longest name that can be asked for does not push the reason out of `detail`."""
    name = f"/{letter * 30_000}"
    limited = {"limits": {"open_files": 64}}
    asked: list[dict[str, Any]] = [
        {"cwd": name},
        {"argv": [name]},
        {"argv": [name]} | limited,
        {"argv": [letter * 9999]},
    ]
    for job, more in enumerate(asked, 1):
        end, _ = keep(*keeping, job, "true", **more)
        assert end["ending"] == "failed_to_start"
        assert end["detail"].endswith(": not found along PATH" if job == len(asked) else ": File name too long")


def test_a_long_detail_is_shortened_not_refused(state: tuple[Any, ...]) -> None:
    """An end always fits, whatever its detail: control characters, many bytes to the character."""
    _, _, writer = state
    writer.begin({"job": 1, "token": "t", "wall": 5})
    detail = "\x01🥖" * 5000
    writer.end({"job": 1, "token": "t", "detail": detail})
    slots = os.open(state[0] / "slots", os.O_RDONLY)
    reader = SlotReader(slots, "1.slot")
    os.close(slots)
    assert detail.startswith(record_of(reader, 1).end["detail"])
    reader.close()


@pytest.mark.heavy
@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=200)), max_size=5), st.data())
def test_messages_survive_any_cutting(messages: Any, data: Any) -> None:
    """However a socket cuts the bytes, the same messages come out."""
    whole = b"".join(map(pack, messages))
    unpacker = Unpacker()
    received: list[Any] = []
    while whole:
        cut = data.draw(st.integers(1, len(whole)))
        received += unpacker.feed(whole[:cut])
        whole = whole[cut:]
    assert received == messages


def test_an_identity_can_be_written_down() -> None:
    """What was dumped loads as the same."""
    me = ProcessIdentity.from_pid(os.getpid())
    assert ProcessIdentity.from_dict(me.to_dict()) == me
