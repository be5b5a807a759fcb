"""Resource limits: what the command sees of them, what they do, and that nothing else changes with them."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from shellrunner.keeper import process_tree
from shellrunner.keeper.fork_exec import requested_limits
from shellrunner.keeper.slot import SlotReader
from tests.support.keepers import ForkServer, Talk, keep, record_of, start, surroundings
from tests.support.service import InProcess, Service
from tests.support.users import sees_keepers

MIB = 1 << 20
HIGH_LIMIT = {"open_files": 64}  # a limit that takes the other path and nothing else


@pytest.mark.parametrize(
    ("limits", "option", "seen"),
    [
        ({"memory_bytes": 256 * MIB}, "-v", 256 * 1024),
        ({"cpu_seconds": 7}, "-t", 7),
        ({"processes": 321}, "-u", 321),
        ({"open_files": 33}, "-n", 33),
    ],
)
def test_the_command_sees_its_limit(
    keeping: tuple[Talk, SlotReader], limits: dict[str, Any], option: str, seen: int
) -> None:
    """Each limit is the command's, soft and hard (CPU time has a few seconds between them)."""
    argv = ["bash", "-c", f"ulimit -S {option}; ulimit -H {option}"]
    end, data = keep(*keeping, 1, "", argv=argv, limits=limits)
    soft, hard = map(int, data.split())
    assert (end["exit_code"], soft, hard) == (0, seen, seen + 5 if option == "-t" else seen)


def test_all_limits_at_once(keeping: tuple[Talk, SlotReader]) -> None:
    """All limits can be set together, and each holds."""
    limits = {"memory_bytes": 512 * MIB, "cpu_seconds": 9, "processes": 4000, "open_files": 20}
    end, data = keep(*keeping, 1, "", argv=["bash", "-c", "ulimit -v -t -u -n"], limits=limits)
    assert [int(line.split()[-1]) for line in data.splitlines()] == [524_288, 9, 4000, 20]
    assert end["exit_code"] == 0


@pytest.mark.heavy
def test_a_memory_hog_fails(keeping: tuple[Talk, SlotReader]) -> None:
    """An allocation beyond the address space fails; the ending is the command's own, not an invented signal."""
    hog = "x = bytearray(400 << 20)"
    argv = ["/usr/bin/env", "python3", "-c", hog]
    end, data = keep(*keeping, 1, "", argv=argv, limits={"memory_bytes": 300 * MIB})
    assert (end["ending"], end["exit_code"]) == ("exited", 1)
    assert b"MemoryError" in data
    end, _ = keep(*keeping, 2, "", argv=argv, limits={"memory_bytes": 900 * MIB})
    assert end["exit_code"] == 0


@pytest.mark.heavy
def test_a_cpu_hog_is_ended_by_its_signal(keeping: tuple[Talk, SlotReader]) -> None:
    """After its CPU time a process gets SIGXCPU, and that is what the kernel reports."""
    end, _ = keep(*keeping, 1, "while :; do :; done", limits={"cpu_seconds": 1}, timeout=20)
    assert (end["ending"], end["signal"]) == ("signalled", "SIGXCPU")
    assert 0.5 < end["cpu_user"] + end["cpu_system"] < 3  # the kernel counts in ticks


def test_open_files_are_bounded(keeping: tuple[Talk, SlotReader]) -> None:
    """The next descriptor is refused, and the keeper has its own limit as before."""
    keeper, slot = keeping
    pid = keeper.hello["identity"]["pid"]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    opener = "import os\ntry:\n while 1: last = os.dup(0)\nexcept OSError as e: print(last, e.errno)"
    end, data = keep(keeper, slot, 1, "", argv=["/usr/bin/env", "python3", "-c", opener], limits={"open_files": 12})
    assert (end["exit_code"], data) == (0, b"11 24\n")
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == before


def test_a_limit_of_the_service_itself_is_not_exceeded(fork_server: ForkServer) -> None:
    """A limit above the keeper's own is lowered to that."""
    keeper, slot = fork_server.keeper(), fork_server.slot()
    pid = keeper.hello["identity"]["pid"]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (90, 100))
    _, data = keep(keeper, slot, 1, "ulimit -n", limits={"open_files": 1000})
    assert data == b"100\n"
    slot.close()


def test_what_is_null_is_no_limit() -> None:
    """A limit that is null or absent is not set."""
    assert (
        requested_limits(None)
        == requested_limits({})
        == requested_limits({"memory_bytes": None, "open_files": None})
        == []
    )


@pytest.mark.parametrize("more", [{}, {"tty": [24, 80]}, {"stdin": "x"}, {"stream": True}, {"merge_stderr": True}])
def test_surroundings_are_as_without_limits(keeping: tuple[Talk, SlotReader], more: dict[str, Any]) -> None:
    """Signals, descriptors, session, directory, environment, streams: nothing distinguishes the two paths."""
    by_spawn, by_fork = (
        surroundings(*keeping, job, limits=limits, **more) for job, limits in enumerate((None, HIGH_LIMIT), 1)
    )
    assert by_spawn[:2] == by_fork[:2]
    assert _plain(by_spawn[2]) == _plain(by_fork[2])
    assert by_spawn[0] == 7


def _plain(lines: Any) -> tuple[Any, ...]:
    """Without glibc's own two signals, which only posix_spawn ignores."""
    masks = [int(line.split()[1], 16) & ~(0b11 << 31) for line in lines if line.startswith(b"Sig")]
    return masks, [line for line in lines if not line.startswith(b"Sig")]


@pytest.mark.parametrize(
    "more",
    [
        {"argv": ["no-such-program"]},
        {"argv": ["/nothing/here"]},
        {"argv": ["/etc/passwd"]},
        {"argv": ["/etc"]},
        {"argv": ["/bin/sh", "x" * 200_000]},
        {"cwd": "/no/such"},
        {"cwd": "/etc/passwd"},
        {"env": {"PATH": "/nowhere", "BIG": "x" * 200_000}, "argv": ["/bin/true"]},
    ],
)
def test_failures_to_start_are_reported_alike(keeping: tuple[Talk, SlotReader], more: dict[str, Any]) -> None:
    """Whatever prevents a command's start, the detail is the same with limits as without, and no process is left."""
    details = []
    for job, limits in enumerate((None, HIGH_LIMIT), 1):
        end, _ = keep(*keeping, job, "true", limits=limits, **more)
        assert end["ending"] == "failed_to_start"
        details.append(end["detail"])
    assert details[0] == details[1]
    assert not process_tree.descendants(keeping[0].hello["identity"]["pid"])


def test_a_large_command_starts_under_a_small_limit(keeping: tuple[Talk, SlotReader]) -> None:
    """Arguments and environment need no memory of the child's own, however tight its limit."""
    env = {"PATH": "/usr/bin:/bin"} | {f"V{number}": "x" * 100_000 for number in range(10)}
    end, data = keep(*keeping, 1, "", argv=["/bin/sh", "-c", "echo ok"], env=env, limits={"memory_bytes": 16 * MIB})
    assert (end["exit_code"], data) == (0, b"ok\n")


def test_a_limit_under_which_nothing_can_run_is_reported(keeping: tuple[Talk, SlotReader]) -> None:
    """With no memory at all the kernel refuses or kills it: the end is one of the two, and the keeper goes on."""
    end, _ = keep(*keeping, 1, "true", limits={"memory_bytes": 1})
    assert end["ending"] in ("failed_to_start", "signalled")
    end, _ = keep(*keeping, 2, "exit 3")
    assert end["exit_code"] == 3


def test_a_cancel_reaches_a_limited_command(keeping: tuple[Talk, SlotReader]) -> None:
    """A limited command has a process group of its own from the start: ending it ends nothing else."""
    keeper, slot = keeping
    for job in range(1, 21):
        start(keeper, job, "exec sleep 600", limits=HIGH_LIMIT)
        keeper.send(do="cancel", job=job, token="t")
        assert keeper.receive()["say"] == "ended"
        end = record_of(slot, job).end
        assert (end["ending"], end["signal"]) == ("cancelled", "SIGTERM")


@sees_keepers
def test_no_descriptor_or_zombie_stays_in_a_keeper(keeping: tuple[Talk, SlotReader]) -> None:
    """After many limited commands of every kind a keeper has the descriptors it began with, and no child."""
    pid = keeping[0].hello["identity"]["pid"]
    before = sorted(os.listdir(f"/proc/{pid}/fd"))
    kinds: list[dict[str, Any]] = [
        {"command": "true"},
        {"command": "true", "tty": [24, 80]},
        {"command": "cat", "stdin": "text"},
        {"command": "true", "argv": ["/nothing"]},
        {"command": "kill -9 $$"},
        {"command": "true", "limits": {"memory_bytes": 1}},
    ]
    for job, kind in enumerate(kinds * 3, 1):
        keep(*keeping, job, **({"limits": HIGH_LIMIT} | kind))
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == before
    assert not process_tree.descendants(pid)
    with open(f"/proc/{pid}/status") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    assert not caught >> (signal.SIGCHLD - 1) & 1


# Through the service ------------------------------------------------------------------------------------------------


async def test_a_jobs_limits_override_the_configured_ones(tmp_path: Path) -> None:
    """Configured limits apply to a job without its own; it may ask for less, and is rejected if it asks for more."""
    async with InProcess(tmp_path / "state", jobs={"open_files": 100, "memory_bytes": 512 * MIB}) as service:
        result = await service.run("ulimit -n; ulimit -v")
        assert result["stdout"].split() == ["100", str(512 * 1024)]
        result = await service.run("ulimit -n; ulimit -v", limits={"open_files": 50})
        assert result["stdout"].split() == ["50", str(512 * 1024)]
        status, _, body = await service.ask(
            "POST", "/api/jobs", json={"command": "true", "limits": {"open_files": 101}}
        )
        assert (status, body["errors"][0]["pointer"]) == (422, "#/limits/open_files")


async def test_without_limits_there_are_none(service: Service) -> None:
    """By default a command has the limits that the service was started with."""
    result = await service.run("ulimit -v; ulimit -t")
    assert result["stdout"].split() == ["unlimited", "unlimited"]
