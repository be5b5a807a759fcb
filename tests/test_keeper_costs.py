"""What a job costs its keeper, in counts: system calls, bytes in the slot, garbage of the collector."""

import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from benchmarks.process_tree import children
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shellrunner.config import JobDefaults
from shellrunner.keeper.slot import PAGE_SIZE, SlotReader
from shellrunner.model import Claim, JobSpec
from shellrunner.supervisor.start_message import build_start_message
from shellrunner.supervisor.users import UserAccount
from tests.support.keepers import ForkServer, Talk, kept, record_of, start
from tests.support.measurement import FORK_SERVER, IS_MEASURED
from tests.support.simulated_keeper import SimulatedKeeper
from tests.support.system_calls import counted

_JOBS = 30
# Of one empty job: the keeper's own, and those that glibc makes for posix_spawn, whose names differ between systems.
_OWN_CALLS = {
    "recvfrom": 1, "pwrite64": 2, "pipe2": 2, "ioctl": 2, "chdir": 2, "pidfd_open": 1, "poll": 2, "read": 2,
    "close": 5, "wait4": 2, "getrusage": 1, "sendto": 1,
}  # fmt: skip
_MAX_OTHER_CALLS = 10
_MAX_BYTES = 256
_MAX_PRIVATE_MEMORY = 1950  # KiB
_SOCKETS = 3  # the server's, and the channel on which keepers hand over what they let go
_MODULES = {  # what these import in turn included
    "array", "binascii", "collections", "collections_abc", "contextlib", "copyreg", "ctypes", "enum", "errno",
    "fcntl", "functools", "gc", "genericpath", "itertools", "json", "keyword", "math", "operator", "os", "posixpath",
    "re", "reprlib", "resource", "select", "selectors", "signal", "socket", "sre", "stat", "struct", "termios",
    "types", "typing", "warnings", "zlib",
}  # fmt: skip


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[tuple[Talk, SlotReader]]:
    """Yield the connection to a keeper, and its slot."""
    server = ForkServer(tmp_path / "state")
    with kept(server) as keeper:
        yield keeper
    server.end()


def _run_empty(keeper: Talk, job: int) -> None:
    start(keeper, job, "", argv=["/bin/true"])
    assert keeper.receive()["say"] == "ended"


async def test_system_calls_of_an_empty_job(keeping: tuple[Talk, SlotReader], tmp_path: Path) -> None:
    """An empty job that nothing delays costs a keeper no more than these system calls."""
    keeper, _ = keeping
    _run_empty(keeper, 1)
    trace = tmp_path / "trace"
    async with counted(keeper.hello["identity"]["pid"], trace):
        for job in range(2, _JOBS + 2):
            _run_empty(keeper, job)
    jobs: list[Counter[str]] = []
    for line in trace.read_text().splitlines():
        name = line.partition("(")[0]
        if name == "recvfrom" and "EAGAIN" not in line:
            jobs.append(Counter())
        if jobs:
            jobs[-1][name] += 1
    assert len(jobs) == _JOBS
    # The quickest: a job that takes longer shows its pid, and one whose pipes end before it wakes the keeper twice.
    least = min(jobs[:-1], key=Counter.total)  # the last one's next poll may be missing
    assert {name: least[name] for name, most in _OWN_CALLS.items() if least[name] > most} == {}
    assert sum(count for name, count in least.items() if name not in _OWN_CALLS) <= _MAX_OTHER_CALLS, least


def test_bytes_of_an_empty_job(keeping: tuple[Talk, SlotReader]) -> None:
    """The start and the end of an empty job are a few bytes in the slot."""
    keeper, slot = keeping
    _run_empty(keeper, 1)
    page = os.pread(slot.fd, PAGE_SIZE, PAGE_SIZE)
    assert record_of(slot, 1).number == 0
    sizes = {name: int.from_bytes(page[at : at + 4], "little") for name, at in (("start", 0), ("end", 1024))}
    assert sizes.keys() == {name for name, size in sizes.items() if size}
    assert sum(sizes.values()) <= _MAX_BYTES, sizes


@pytest.mark.heavy
def test_no_job_leaves_a_cycle(tmp_path: Path) -> None:
    """Whatever kind a job is, what a keeper made for it is free with its end, without the garbage collector."""
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "tests.support.keeper_garbage", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("all kinds\n", "", 0)


def test_modules_of_a_keeper() -> None:
    """The fork server loads these modules and no others: what it loads is memory, and time at each start."""
    program = f"""
import sys
before = set(sys.modules)
sys.path.append({str(FORK_SERVER.parents[1])!r})
import keeper.fork_server
print(*(name for name in set(sys.modules) - before if not name.startswith("keeper")))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0].removeprefix("_") for name in done.stdout.split()}
    assert loaded <= _MODULES


@pytest.mark.skipif(IS_MEASURED, reason="coverage is memory of a keeper's own")
def test_private_memory_of_a_keeper(keeping: tuple[Talk, SlotReader]) -> None:
    """Most of a keeper's memory is shared with the fork server: a running job costs it less than this."""
    keeper, _ = keeping
    for job in (1, 2):
        _run_empty(keeper, job)
    rollup = Path(f"/proc/{keeper.hello['identity']['pid']}/smaps_rollup").read_text()
    private = {
        line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")
    }
    assert private["Private_Clean"] + private["Private_Dirty"] <= _MAX_PRIVATE_MEMORY, rollup


def test_nothing_is_left_of_the_warm_up(tmp_path: Path) -> None:
    """The command that a fork server runs to warm up has ended before it forks, and its descriptors are closed."""
    server = ForkServer(tmp_path / "state")
    keeper = server.keeper()
    try:
        assert children(server.process.pid) == [keeper.hello["identity"]["pid"]]
        directory = Path(f"/proc/{server.process.pid}/fd")
        opened = [os.readlink(each) for each in directory.iterdir()]
        assert [path for path in opened if "memfd" in path or "pipe" in path] == []
        assert sum(path.startswith("socket:") for path in opened) == _SOCKETS
    finally:
        server.end()


_PLAIN_END = {
    "job": 1, "token": "t-1", "stdout": 7, "stderr": 0, "stdout_dropped": 1 << 40, "stderr_dropped": 0, "entries": 2,
    "data_crc": (1 << 32) - 1, "index_crc": 0, "exit_code": 3, "signal": None, "ending": "exited", "detail": None,
    "wall": -9, "started": 5, "duration": 0.1, "cpu_user": 1e-6, "cpu_system": 0.0, "max_rss_bytes": None,
}  # fmt: skip
_values = st.one_of(st.none(), st.integers(-(1 << 70), 1 << 70), st.floats(allow_nan=False), st.text(max_size=20))
_changes = st.dictionaries(st.sampled_from([*(_PLAIN_END.keys() - {"job", "token"}), "leftovers_count"]), _values)


@pytest.mark.heavy
@given(_changes, st.sets(st.sampled_from(["detail", "exit_code", "max_rss_bytes"])))
@example({}, set())
@example({"max_rss_bytes": 4096}, set())
@example({"max_rss_bytes": 0}, set())
@example({"max_rss_bytes": ""}, set())
@settings(max_examples=100, deadline=None)
def test_an_end_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], missing: set[str]
) -> None:
    """Whether an end is as most ends are, or has other members or values: a reader gets what was written."""
    end = {name: value for name, value in (_PLAIN_END | changes).items() if name not in missing}
    with SimulatedKeeper(_state(tmp_path_factory), header={}) as keeper:
        keeper.begin(1, "t-1")
        keeper.end(end)
        with closing(keeper.reader()) as reader:
            assert reader.records()[0].end == end


@pytest.mark.parametrize(
    "content", [b"e", b"e" + bytes(40), b"s\xff", b"e" + bytes(200) + b"\xff", b"{", b"7", b"\0"]
)
def test_a_block_that_no_keeper_writes_is_none(tmp_path: Path, content: bytes) -> None:
    """A block whose sum is right and whose content is not counts as missing."""
    (tmp_path / "slots").mkdir()
    with SimulatedKeeper(tmp_path, header={}) as keeper:
        keeper.begin(1, "t")
        block = struct.pack("<II", len(content), zlib.crc32(content)) + content
        with (tmp_path / "slots" / "1.slot").open("r+b") as file:
            file.seek(PAGE_SIZE + 1024)
            file.write(block)
        with closing(keeper.reader()) as reader:
            assert (reader.records()[0].job, reader.records()[0].end) == (1, None)


def _state(factory: pytest.TempPathFactory) -> Path:
    state = factory.mktemp("state")
    (state / "slots").mkdir()
    return state


def test_members_of_the_start_of_a_plain_job() -> None:
    """Members that have their default are not in the message: it is encoded and decoded with every job."""
    claim = Claim(1, "t", 1, JobSpec(command="true"), 1000)
    message = build_start_message(claim, JobDefaults(), UserAccount(None, {}, "/"))
    assert sorted(message) == ["argv", "attempt", "cwd", "do", "env", "grace", "job", "output_bytes", "token"]
