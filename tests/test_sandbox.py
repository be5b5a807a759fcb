"""A confined command: its status is the kernel's own, and it is started, signalled and ended as any other."""

import base64
import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest

from shellrunner.keeper import process_tree
from shellrunner.keeper.slot import SlotReader
from shellrunner.supervisor.seccomp import CannotFilter, compile_filter
from tests.support.keepers import Talk, give, keep, record_of, start
from tests.support.processes import marked
from tests.support.users import as_root
from tests.support.waiting import until

BWRAP: Final = shutil.which("bwrap") or ""
ARGUMENTS: Final = [
    *("--cap-drop", "ALL", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
    *("--unshare-net", "--unshare-ipc", "--tmpfs", "/tmp"),
]
SANDBOX: Final[dict[str, Any]] = {"profile": "p", "bwrap": BWRAP, "arguments": ARGUMENTS, "system_calls": ""}

pytestmark = pytest.mark.skipif(not BWRAP and "CI" not in os.environ, reason="needs bubblewrap")


@pytest.mark.parametrize(
    ("script", "more", "expected"),
    [
        ("exit 7", {}, ("exited", 7, None)),
        ("exit 139", {}, ("exited", 139, None)),
        ("kill -SEGV $$", {}, ("signalled", None, "SIGSEGV")),
        ("sleep 60", {"timeout": 0.2}, ("timed_out", None, "SIGTERM")),
        ("trap 'exit 5' TERM; sleep 60 & wait", {"timeout": 1}, ("timed_out", 5, None)),
        ("trap '' TERM; while :; do sleep 60; done", {"timeout": 1, "grace": 0.2}, ("timed_out", None, "SIGKILL")),
        ("tty && stty size && test $(ps -o tpgid= -p $$) = $$", {"tty": [24, 80]}, ("exited", 0, None)),
        ("test $(ulimit -n) = 99", {"limits": {"open_files": 99}}, ("exited", 0, None)),
    ],
)
def test_a_confined_command_ends_as_the_kernel_says(
    keeping: tuple[Talk, SlotReader], script: str, more: dict[str, Any], expected: tuple[str, int | None, str | None]
) -> None:
    """Exit codes above 128 and signals are distinguished, and no process of the sandbox is left."""
    end, _ = keep(*keeping, 1, script, sandbox=SANDBOX, **more)
    assert (end["ending"], end["exit_code"], end["signal"]) == expected
    assert not process_tree.descendants(keeping[0].hello["identity"]["pid"])


@pytest.mark.parametrize(
    ("more", "detail"),
    [
        ({"argv": ["nope"]}, "execvp nope: No such file or directory"),
        ({"cwd": "/nope"}, "Can't chdir to /nope: No such file or directory"),
        ({"sandbox": {**SANDBOX, "bwrap": "/nope"}}, "cannot start /nope: No such file or directory"),
        ({"sandbox": {**SANDBOX, "arguments": ["--ro-bind", "/nope", "/"]}}, "Can't find source path /nope"),
        ({"sandbox": {**SANDBOX, "arguments": ["--nope"]}}, "Unknown option --nope"),
    ],
)
def test_a_command_that_cannot_be_confined_is_not_started(
    keeping: tuple[Talk, SlotReader], more: dict[str, Any], detail: str
) -> None:
    """The detail has bubblewrap's reason; nothing has run, and nothing is left."""
    end, data = keep(*keeping, 1, "echo ran", **({"sandbox": SANDBOX} | more))
    assert (end["ending"], data) == ("failed_to_start", b"")
    assert end["detail"].startswith(f"cannot start it under the profile p: {detail}")
    assert not process_tree.descendants(keeping[0].hello["identity"]["pid"])


def test_what_it_leaves_behind_is_named_and_ended(keeping: tuple[Talk, SlotReader]) -> None:
    """Only the command's own processes are leftovers; what ends by itself meanwhile is waited for and is none."""
    end, _ = keep(*keeping, 1, "(sleep 61 &); exit 4", sandbox=SANDBOX)
    assert (end["exit_code"], [each["command"] for each in end["leftovers"]]) == (4, ["sleep 61"])
    end, data = keep(*keeping, 2, "(sleep 0.1; echo late) & exit 3", sandbox=SANDBOX)
    assert (end["exit_code"], data, end.get("leftovers")) == (3, b"late\n", None)


def _has_written(slot: SlotReader, job: int) -> bool:
    record = slot.find(job, "t")
    return record is not None and bool(record.progress.get("stdout"))


async def test_signals_reach_the_command_and_spare_its_sandbox(keeping: tuple[Talk, SlotReader]) -> None:
    """A signal to the group or the tree is the command's alone; the mark of a job is seen from outside."""
    keeper, slot = keeping
    script = "trap 'echo usr; exit 6' USR1; echo ready; while :; do sleep 0.05; done"
    for job, to in enumerate(("group", "tree"), 1):
        start(keeper, job, script, sandbox=SANDBOX, env={"PATH": "/usr/bin:/bin", "SHELLRUNNER_JOB": f"{job}:mark"})
        await until(partial(_has_written, slot, job), what="it is ready")
        assert marked(f"SHELLRUNNER_JOB={job}:mark")
        keeper.send(do="signal", job=job, token="t", signum=int(signal.SIGUSR1), to=to)
        assert keeper.receive()["say"] == "ended"
        assert record_of(slot, job).end["exit_code"] == 6


def test_its_environment_does_not_reach_bubblewrap(keeping: tuple[Talk, SlotReader]) -> None:
    """LD_PRELOAD applies to the command only, and no value is in a command line."""
    env = {"PATH": "/usr/bin:/bin", "LD_PRELOAD": "/nope/planted.so", "SECRET": "s3cr3t"}
    end, data = keep(*keeping, 1, 'echo "$SECRET"; cat /proc/*/cmdline | tr "\\0" " "', sandbox=SANDBOX, env=env)
    assert end["exit_code"] == 0
    assert data.count(b"s3cr3t") == 1
    # The loaders of the shell, cat and tr complain; those of both bubblewraps and of init would, too.
    assert data.count(b"planted.so") == 3


def test_system_calls_are_filtered_for_every_convention(keeping: tuple[Talk, SlotReader]) -> None:
    """A denied call fails with EPERM; by another convention of the processor it ends the process."""
    program = base64.b64encode(compile_filter(["mkdir", "mkdirat"], deny=True)).decode()
    sandbox = {**SANDBOX, "system_calls": program}
    end, data = keep(*keeping, 1, "mkdir /tmp/x", sandbox=sandbox)
    assert (end["exit_code"], b"Operation not permitted" in data) == (1, True)
    if os.uname().machine == "x86_64":
        x32 = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 83, b'/tmp/x', 0o700)"
        end, _ = keep(*keeping, 2, "", argv=["/usr/bin/env", "python3", "-c", x32], sandbox=sandbox)
        assert end["signal"] == "SIGSYS"
    with pytest.raises(CannotFilter, match="'nope' is not a system call"):
        compile_filter(["nope"], deny=True)


@as_root
def test_it_runs_as_another_user_and_opens_its_streams_again(keeping: tuple[Talk, SlotReader]) -> None:
    """The user is switched to before bubblewrap is started; streams and limits are as without a profile."""
    user = {"uid": 61_234, "gid": 61_235, "groups": [61_235]}
    script = "id -u; id -G; cat; echo oops > /dev/stderr; test $(ulimit -n) = 50"
    end, data = keep(*keeping, 1, script, sandbox=SANDBOX, user=user, stdin="typed\n", limits={"open_files": 50})
    assert (end.get("exit_code", end["detail"]), data.decode().split(), end["stderr"]) == (
        0,
        ["61234", "61235", "typed", "oops"],
        5,
    )


def test_keys_typed_into_its_own_terminal_reach_nobody_else(keeping: tuple[Talk, SlotReader]) -> None:
    """TIOCSTI is refused, or fills the input of its own terminal, which no other process reads."""
    script = (
        "import fcntl, termios\nfor key in b'id\\n': fcntl.ioctl(0, termios.TIOCSTI, bytes([key]))\nprint(input())"
    )
    end, data = keep(*keeping, 1, "", argv=["/usr/bin/python3", "-c", script], sandbox=SANDBOX, tty=[24, 80])
    assert end["ending"] == "exited"
    assert data.split()[-1] == b"id" if end["exit_code"] == 0 else b"Error" in data
    assert keep(*keeping, 2, "cat", sandbox=SANDBOX)[1] == b""


@pytest.mark.heavy
async def test_a_confined_command_is_paused_and_resumed(keeping: tuple[Talk, SlotReader]) -> None:
    """All of it is stopped and goes on, but for what the sandbox itself consists of."""
    keeper, slot = keeping
    start(keeper, 1, "setsid sh -c 'while :; do sleep 0.01; done' & read x; exit 5", sandbox=SANDBOX, stream=True)

    def states() -> set[bool]:
        """Return the states of all; none of them if one has ended meanwhile."""
        tree = process_tree.living(keeper.hello["identity"]["pid"])
        with contextlib.suppress(OSError):
            # D: a shell waits for its stopped child, which has not executed its program yet (vfork(2)).
            return {each.is_stopped or each.state == b"D" for each in tree if not is_helper(each.pid)}
        return set()

    def is_helper(pid: int) -> bool:
        command = process_tree.describe(pid)
        return command.startswith(BWRAP) or "CHLD" in command

    await until(states)
    for do, stopped in (("pause", True), ("resume", False)):
        keeper.send(do=do, job=1, token="t")
        assert (keeper.receive()["paused"], keeper.receive()["refused"]) == (stopped, None)
        await until(partial(are_all, states, stopped), what=do)
    assert give(keeper, b"x\n", end=True)[1] is None
    assert keeper.receive()["say"] == "ended"
    assert record_of(slot, 1).end["exit_code"] == 5


def are_all(states: Callable[[], set[bool]], expected: bool) -> bool:
    """Return whether this is the state of all."""
    return states() == {expected}
