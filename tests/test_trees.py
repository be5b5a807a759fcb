"""The end of a command's tree, not only of its leader: T1, T2 and T3 of docs/explanation/failures.md.

Through a keeper's protocol; `tests/faults/test_trees.py` has more of the same.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.process_tree import children

from shellrunner.keeper import process_tree
from shellrunner.keeper.slot import SlotReader
from tests.support.keepers import Talk, ended, keep, record_of, start
from tests.support.processes import lives
from tests.support.waiting import until

Keeping = tuple[Talk, SlotReader]

# What a process does that saves its work at TERM: it appends a line to $SAVED, a moment later.
WORKER = "trap 'sleep 0.05; echo saved >> $SAVED; exit 0' TERM; echo up >> $SAVED; while :; do sleep 0.02; done"
# It has appended a line to $UP once its handler, which writes $SAY to standard output, is there; the shell's own
# remarks about its ended children are discarded.
LOOP = "exec 2>/dev/null; trap 'echo $SAY; exit 7' TERM; echo up >> $UP; while :; do sleep 0.02; done"
WRAPPERS = {
    "timeout": "timeout 60 sh $WORKER",
    "timeout -k": "timeout -k 1 60 sh $WORKER",
    "setsid": "setsid -w sh $WORKER",
    "setsid in the background": "setsid sh $WORKER & wait",
    "setsid and forgotten": "setsid sh $WORKER & exec sleep 60",
    "flock": "flock $SAVED.lock sh $WORKER",
    "xargs": "echo $WORKER | xargs sh",
    "script": "script -qc 'exec sh $WORKER' /dev/null",
    "nohup": "nohup sh $WORKER",
    "env": "env A=b sh $WORKER",
    "nice": "nice sh $WORKER",
    "stdbuf": "stdbuf -oL sh $WORKER",
    "job control": "bash -m -c 'sh $WORKER & wait' 2>/dev/null",
    "double fork": "sh -c '(sh $WORKER &)'; exec sleep 60",
    "nested": "timeout 60 setsid -w timeout 50 bash -c 'sh $WORKER'",
    "busybox": "busybox sh $WORKER",
}


def bash(script: str) -> dict[str, Any]:
    """Return the members of a `start` message that run a bash script."""
    return {"argv": ["/usr/bin/env", "bash", "-c", script]}


async def cancelled(keeping: Keeping, up: Path, command: str, *, workers: int = 1, **more: Any) -> tuple[Any, bytes]:
    """Cancel a command once so many workers have written to `up`; return its end and what it wrote."""
    keeper, slot = keeping
    start(keeper, 1, command, **more)
    await until(lambda: up.exists() and len(up.read_text().split()) == workers, what="the workers can be signalled")
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"
    return ended(slot, 1)


def worker(tmp_path: Path) -> dict[str, Any]:
    """Return the members of a `start` message in whose environment WORKER is a program that writes to SAVED."""
    (tmp_path / "worker").write_text(WORKER)
    path = {"PATH": "/usr/bin:/bin", "WORKER": str(tmp_path / "worker"), "SAVED": str(tmp_path / "saved")}
    return {"env": path, "grace": 10}


# Output that arrives after the command's own end --------------------------------------------------------------------


@pytest.mark.heavy
def test_t1_a_process_substitution_loses_nothing(keeping: Keeping, tmp_path: Path) -> None:
    """40 times of 40 both lines are there, in the output and in tee's file, and nothing counts as left behind."""
    log = tmp_path / "log"
    for job in range(1, 41):
        end, data = keep(*keeping, job, "", **bash(f"exec > >(tee {log}) 2>&1; echo a; echo b"))
        assert (end["ending"], end["exit_code"], data, log.read_bytes()) == ("exited", 0, b"a\nb\n", b"a\nb\n")
        assert "leftovers" not in end


_LARGE_PIPE = (
    "fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)"  # a process may have more in the pipe than one read returns
)


@pytest.mark.parametrize(
    ("more", "prepare", "size"),
    [
        ({"tty": [24, 80]}, "", 8_000),
        ({}, "", 65_536),
        ({}, _LARGE_PIPE, 600_000),
        ({"leave_children": True}, _LARGE_PIPE, 600_000),
    ],
    ids=["terminal", "pipe", "large pipe", "children may stay"],
)
async def test_t1_a_cancel_after_the_end_loses_no_output(
    keeping: Keeping, tmp_path: Path, more: dict[str, Any], prepare: str, size: int
) -> None:
    """A command that has ended when a cancel arrives keeps its ending, and everything that it wrote."""
    keeper, slot = keeping
    pid = keeper.hello["identity"]["pid"]
    go, runs = tmp_path / "go", tmp_path / "runs"
    program = f"""import fcntl, os, time
{prepare}
open({str(runs)!r}, "w").close()
while not os.path.exists({str(go)!r}): time.sleep(0.01)
os.write(1, b"x" * {size})"""
    start(keeper, 1, "", **{"argv": [sys.executable, "-c", program], "output_bytes": 1 << 30, **more})
    await until(runs.exists)
    (command,) = children(pid)
    os.kill(pid, signal.SIGSTOP)
    go.touch()
    await until(lambda: not lives(command), what="the command has ended")
    keeper.send(do="cancel", job=1, token="t")
    os.kill(pid, signal.SIGCONT)
    assert keeper.receive()["say"] == "ended"
    end = record_of(slot, 1).end
    assert (end["ending"], end["exit_code"], end["stdout"]) == ("exited", 0, size)


def test_t1_stderr_of_a_substitution_is_whole(keeping: Keeping) -> None:
    """What a process substitution writes on behalf of the last command is there, in 20 runs of 20."""
    for job in range(1, 21):
        end, data = keep(*keeping, job, "", **bash("echo err 1> >(cat)"))
        assert (end["exit_code"], data) == (0, b"err\n")


@pytest.mark.heavy
def test_t1_twenty_thousand_lines_through_tee(keeping: Keeping, tmp_path: Path) -> None:
    """What fills the pipe to a filter several times over is whole in the output and in the file."""
    log = tmp_path / "log"
    lines = 'i=0; while [ $i -lt 20000 ]; do echo "line $i"; i=$((i+1)); done'
    end, _ = keep(*keeping, 1, "", **bash(f"exec > >(tee {log}) 2>&1; {lines}"))
    expected = "".join(f"line {n}\n" for n in range(20_000))
    assert (end["exit_code"], end["stdout"], log.read_text()) == (0, len(expected), expected)


def test_t1_a_pipeline_on_a_terminal_is_whole(keeping: Keeping) -> None:
    """What a pipeline writes to a terminal is there: the hangup that follows the command comes after its output."""
    for job in range(1, 11):
        end, data = keep(*keeping, job, "", tty=[24, 80], **bash("trap '' HUP; echo a | cat; echo b; exit 4"))
        assert (end["exit_code"], data) == (4, b"a\r\nb\r\n")


def test_t1_a_substitution_on_a_terminal_is_whole(keeping: Keeping, tmp_path: Path) -> None:
    """The command's end does not hang up the terminal on the filter that is still to write, in 20 runs of 20."""
    log = tmp_path / "log"
    for job in range(1, 21):
        end, data = keep(*keeping, job, "", tty=[24, 80], **bash(f"exec > >(tee {log}) 2>&1; echo a; echo b; exit 4"))
        assert (end["exit_code"], data, log.read_bytes()) == (4, b"a\r\nb\r\n", b"a\nb\n")
        assert "leftovers" not in end


def test_output_is_stored_until_it_is_quiet_and_no_longer(keeping: Keeping) -> None:
    """What writes at short intervals after the command's end is stored for a second, which is not in `duration`."""
    began = time.monotonic()
    end, _ = keep(*keeping, 1, "(i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done) & exit 3")
    assert (end["ending"], end["exit_code"]) == ("exited", 3)
    assert end["stdout"] > 10
    assert end["duration"] < 0.9 < time.monotonic() - began
    assert end["leftovers_count"] >= 1


# What is left behind ------------------------------------------------------------------------------------------------


def test_t2_what_is_left_behind_is_named(keeping: Keeping, tmp_path: Path) -> None:
    """A child that a command leaves behind is ended, and the end names it with its pid and command line."""
    end, data = keep(*keeping, 1, f"nohup sh -c 'sleep 300; echo x > {tmp_path}/f' & echo started; echo $! >&2")
    out, pid = data.split()
    assert (end["ending"], end["exit_code"], end["detail"], out) == ("exited", 0, None, b"started")
    assert {"pid": int(pid), "command": f"sh -c sleep 300; echo x > {tmp_path}/f"} in end["leftovers"]
    assert end["leftovers_count"] == len(end["leftovers"]) == 2
    assert not (tmp_path / "f").exists()
    assert not process_tree.descendants(keeping[0].hello["identity"]["pid"])


def test_t2_term_comes_first_once_and_what_is_written_then_is_stored(keeping: Keeping, tmp_path: Path) -> None:
    """Every group that is left gets one TERM; what their handlers write is part of the output."""
    job_control = "bash -m -c 'sh -c \"$LOOP\" & wait' 2>/dev/null"
    left = f'SAY=1 sh -c "$LOOP" & SAY=2 setsid sh -c "$LOOP" & SAY=3 {job_control} & until [ "$(wc -l <$UP)" = 3 ]'
    env = {"PATH": "/usr/bin:/bin", "LOOP": LOOP, "UP": str(tmp_path / "up")}
    end, data = keep(*keeping, 1, f"{left}; do sleep 0.02; done 2>/dev/null", env=env)
    assert sorted(data.split()) == [b"1", b"2", b"3"]
    assert end["leftovers_count"] >= 4


def test_t2_what_ignores_term_is_killed_after_a_second(keeping: Keeping) -> None:
    """A child that ignores TERM does not keep the job for longer than the grace of what is left behind."""
    began = time.monotonic()
    end, _ = keep(*keeping, 1, "trap '' TERM; sleep 300 & setsid sleep 300 & exit 5", grace=60)
    assert 1 < time.monotonic() - began < 4
    assert (end["exit_code"], end["detail"], end["leftovers_count"]) == (5, None, 2)
    assert not process_tree.descendants(keeping[0].hello["identity"]["pid"])


def test_t2_a_stopped_child_gets_its_term(keeping: Keeping) -> None:
    """A child that is stopped handles TERM all the same, as CONT follows."""
    stopped = "trap 'echo bye; exit' TERM; kill -STOP $$; sleep 300"
    env = {"PATH": "/usr/bin:/bin", "STOPPED": stopped}
    end, data = keep(*keeping, 1, 'sh -c "$STOPPED" & sleep 0.1', env=env)
    assert (end["exit_code"], data) == (0, b"bye\n")


def test_p4_a_process_whose_first_thread_has_ended_is_ended_too(keeping: Keeping) -> None:
    """It looks like a zombie in /proc, but its other threads go on: it is named, and nothing of it is left."""
    end, _ = keep(*keeping, 1, "", argv=["/usr/bin/env", "python3", "-c", WITHOUT_FIRST_THREAD])
    assert (end["exit_code"], end["detail"], end["leftovers_count"]) == (3, None, 1)
    assert not process_tree.descendants(keeping[0].hello["identity"]["pid"])


WITHOUT_FIRST_THREAD = """
import ctypes, os, threading, time
pid = os.fork()
if pid == 0:
    threading.Thread(target=time.sleep, args=(300,)).start()
    ctypes.CDLL(None).pthread_exit(None)
while b") Z " not in open(f"/proc/{pid}/stat", "rb").read():
    time.sleep(0.01)
os._exit(3)
"""


def test_t2_a_hundred_are_counted_and_twenty_named(keeping: Keeping) -> None:
    """However many there are and however long their command lines, the end fits into the slot; the count is true."""
    argv = ["/usr/bin/env", "python3", "-c", MANY, "\x1b[31mж😀\n" * 1000]
    end, _ = keep(*keeping, 1, "", argv=argv)
    assert (end["exit_code"], end["detail"], end["leftovers_count"]) == (0, None, 100)
    assert 5 <= len(end["leftovers"]) <= 20
    for left in end["leftovers"]:
        assert left["command"].startswith("python3 -c import ")
        assert left["command"].isprintable()


MANY = "import os, time\nfor _ in range(100):\n if os.fork() == 0:\n  time.sleep(300)\nos._exit(0)"


async def test_t2_let_go_after_its_output_has_settled(keeping: Keeping, tmp_path: Path) -> None:
    """With leave_children the output is whole too, nobody is ended or named, and what is left lives on."""
    keeper, slot = keeping
    daemon = f"(while [ ! -e {tmp_path}/end ]; do sleep 0.02; done; echo over > {tmp_path}/proof) >/dev/null 2>&1 &"
    start(keeper, 1, "", leave_children=True, **bash(f"{daemon} echo $!; exec > >(tee {tmp_path}/log); echo a"))
    assert keeper.receive()["retiring"]
    end, data = ended(slot, 1)
    pid, line = data.split()
    assert (line, (tmp_path / "log").read_bytes()) == (b"a", b"a\n")
    assert "leftovers" not in end
    assert lives(int(pid))
    (tmp_path / "end").touch()
    await until((tmp_path / "proof").exists)


def test_t2_a_cancel_after_the_commands_own_end_changes_no_ending(keeping: Keeping) -> None:
    """A cancel while output settles ends what is left at once; the ending is the command's own, and names it."""
    keeper, slot = keeping
    start(keeper, 1, "sh -c 'while :; do echo x; sleep 0.02; done' & exit 6")
    while not slot.find(1, "t") or not record_of(slot, 1).progress.get("stdout"):
        time.sleep(0.001)
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"
    end, _ = ended(slot, 1)
    assert (end["ending"], end["exit_code"]) in (("exited", 6), ("cancelled", 6))
    assert end["ending"] == "cancelled" or end["leftovers_count"] >= 1


# Cancel, timeout, output limit --------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_t3_term_and_grace_reach_what_a_wrapper_runs(keeping: Keeping, tmp_path: Path, wrapper: str) -> None:
    """Whatever session or group a wrapper makes, the worker in it saves at a cancel, within the grace."""
    command = WRAPPERS[wrapper]
    if not shutil.which(command.split()[0]):
        pytest.skip(f"{command.split()[0]} is not installed here")
    keeper, slot = keeping
    start(keeper, 1, command, **worker(tmp_path))
    saved = tmp_path / "saved"
    await until(lambda: saved.exists() and saved.read_text() == "up\n")
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"
    end, _ = ended(slot, 1)
    assert (end["ending"], end["detail"], "leftovers" in end) == ("cancelled", None, False)
    # Some wrappers pass the signal on, which the worker has got already, so that its handler runs again.
    assert saved.read_text().startswith("up\nsaved\n")


async def test_t3_a_cancel_on_a_terminal_leaves_its_time_to_a_worker(keeping: Keeping, tmp_path: Path) -> None:
    """The end of the command at TERM does not hang up the terminal on the worker that saves meanwhile."""
    keeper, slot = keeping
    start(keeper, 1, "sh $WORKER; true", tty=[24, 80], **worker(tmp_path))
    saved = tmp_path / "saved"
    await until(lambda: saved.exists() and saved.read_text() == "up\n")
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"
    assert (ended(slot, 1)[0]["ending"], saved.read_text()) == ("cancelled", "up\nsaved\n")


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["timeout", "output limit"])
def test_t3_what_is_written_during_the_grace_is_stored(keeping: Keeping, how: str) -> None:
    """A worker in a group of its own writes its last words after the command above it is gone: they are stored."""
    words = "trap 'sleep 0.3; echo last; exit' TERM; head -c 2000 /dev/zero; while :; do sleep 0.02; done 2>/dev/null"
    more: dict[str, Any] = {"timeout": 1} if how == "timeout" else {"output_bytes": 1000}
    end, data = keep(*keeping, 1, f'setsid sh -c "{words}" & wait', grace=10, **more)
    assert (end["ending"], end["signal"]) == (how.replace(" ", "_").replace("timeout", "timed_out"), "SIGTERM")
    if how == "timeout":
        assert data.endswith(b"last\n")
    assert end["duration"] < 10


async def test_t3_nobody_gets_term_twice(keeping: Keeping, tmp_path: Path) -> None:
    """A handler runs once in each group that is there, also where it takes most of the grace."""
    loop = LOOP.replace("; exit 7", "")
    env = {"PATH": "/usr/bin:/bin", "LOOP": loop, "SAY": "got", "UP": str(tmp_path / "up")}
    both = 'sh -c "$LOOP" & setsid sh -c "$LOOP" & wait'
    end, data = await cancelled(keeping, tmp_path / "up", both, workers=2, env=env, grace=1)
    assert (end["ending"], data) == ("cancelled", b"got\ngot\n")


async def test_t3_a_cleanup_in_a_group_of_its_own_has_its_time(keeping: Keeping, tmp_path: Path) -> None:
    """What a TERM handler starts with timeout(1) is not ended by a TERM that was meant for others."""
    env = {"PATH": "/usr/bin:/bin", "SAVE": "sleep 0.3; echo saved", "UP": str(tmp_path / "up")}
    command = LOOP.replace("echo $SAY", 'timeout 10 sh -c "$SAVE"')
    end, data = await cancelled(keeping, tmp_path / "up", command, env=env, grace=3)
    assert (end["ending"], end["exit_code"], data) == ("cancelled", 7, b"saved\n")


@pytest.mark.heavy
async def test_t3_a_group_that_appears_later_gets_term_before_it_is_killed(keeping: Keeping, tmp_path: Path) -> None:
    """A worker that is started again and again gets TERM too, after half of the grace."""
    env = {"PATH": "/usr/bin:/bin", "LOOP": LOOP, "SAY": "saved", "UP": str(tmp_path / "up")}
    again = 'trap : TERM; while :; do setsid -w sh -c "$LOOP"; done'
    end, data = await cancelled(keeping, tmp_path / "up", again, env=env, grace=2)
    assert (end["ending"], end["signal"]) == ("cancelled", "SIGKILL")
    assert data == b"saved\nsaved\n"


@pytest.mark.parametrize("is_leader", [True, False])
async def test_p8_a_group_whose_number_is_a_strangers_by_now_gets_no_signal(is_leader: bool) -> None:
    """A process that was found and is another one now, or has left its group, stands for no group any more."""
    bystander = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    try:
        (found,) = [process for process in process_tree.processes() if process.pid == bystander.pid]
        assert found.group == found.pid
        gone = found._replace(start=found.start - 1)
        if not is_leader:
            own = next(process for process in process_tree.processes() if process.pid == os.getpid())
            gone = own._replace(group=found.group)
        process_tree.signal_groups([gone], signal.SIGKILL)
        assert lives(bystander.pid)
        process_tree.signal_groups([found], signal.SIGKILL)
        assert await bystander.wait() == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            bystander.kill()


@pytest.mark.parametrize("kernel", ["with groups by pidfd", "before Linux 6.9"])
async def test_a_group_gets_one_signal_on_every_kernel(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """Where the kernel cannot signal a group through its leader's pidfd, the group is signalled by its number."""
    if kernel == "before Linux 6.9":
        monkeypatch.setattr(process_tree, "_PIDFD_SIGNAL_PROCESS_GROUP", 1 << 20)
    script = "trap 'echo got' HUP; echo up; while :; do sleep 0.01; done"
    child = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=-1, start_new_session=True)
    assert child.stdout
    assert await child.stdout.readline() == b"up\n"
    tree = [process for process in process_tree.processes() if process.group == child.pid]
    process_tree.signal_groups(tree, signal.SIGHUP)
    assert await child.stdout.readline() == b"got\n"
    process_tree.signal_groups(tree, signal.SIGKILL)
    assert await child.stdout.read() == b""
    assert await child.wait() == -signal.SIGKILL


async def test_p7_the_own_group_is_never_signalled() -> None:
    """Where a process has our group's number, or 0 for one of another namespace, only that process is signalled."""
    child = await asyncio.create_subprocess_exec("sleep", "600")
    (found,) = [process for process in process_tree.processes() if process.pid == child.pid]
    assert found.group == os.getpgrp()
    process_tree.signal_groups([found], signal.SIGTERM)
    assert await child.wait() == -signal.SIGTERM
    child = await asyncio.create_subprocess_exec("sleep", "600")
    (found,) = [process for process in process_tree.processes() if process.pid == child.pid]
    process_tree.signal_groups([found._replace(group=0)], signal.SIGTERM)
    assert await child.wait() == -signal.SIGTERM


# Signals to the tree ------------------------------------------------------------------------------------------------


async def test_a_signal_to_the_tree_reaches_every_group(keeping: Keeping, tmp_path: Path) -> None:
    """`to: tree` reaches what has left the command's group, `to: group` does not."""
    keeper, slot = keeping
    loop = "exec 3>&2 2>/dev/null; trap 'echo $SAY >&3' HUP; echo up; while :; do sleep 0.02; done"
    env = {"PATH": "/usr/bin:/bin", "LOOP": loop}
    both = 'SAY=in sh -c "$LOOP" & SAY=out setsid sh -c "$LOOP" & trap : HUP; while :; do wait; done'
    start(keeper, 1, both, env=env)
    await until(lambda: (r := slot.find(1, "t")) and r.progress.get("stdout") == 6)
    for to, size in (("group", 3), (None, 3), ("tree", 7)):
        before = record_of(slot, 1).progress["stderr"]
        keeper.send(do="signal", job=1, token="t", signum=1, **({"to": to} if to else {}))
        await until(lambda: record_of(slot, 1).progress["stderr"] >= before + size)  # noqa: B023
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"
    words = ended(slot, 1)[1].split()
    assert (words.count(b"in"), words.count(b"out")) == (3, 1)


async def test_the_slot_has_the_pid_of_the_command_while_it_runs(keeping: Keeping) -> None:
    """Readers of the slot find the command's pid until it has ended, whatever it writes."""
    keeper, slot = keeping
    start(keeper, 1, "sleep 0.1; echo $$; exec sleep 300")
    pid = await until(lambda: (r := slot.find(1, "t")) and r.progress.get("pid"))
    assert lives(pid)
    await until(lambda: record_of(slot, 1).progress.get("stdout"))
    record = record_of(slot, 1)
    assert int(slot.data(record, 0, record.progress["stdout"])) == pid == record.progress["pid"]
    keeper.send(do="cancel", job=1, token="t")
    assert keeper.receive()["say"] == "ended"
    assert "pid" not in ended(slot, 1)[0]
    keep(*keeping, 2, "sleep 0.1 & exit 0")
    assert record_of(slot, 2).progress.get("pid") is None
