"""The life of a process: P1 to P10, P12 and P13 of docs/explanation/failures.md, on a running service."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shellrunner.keeper.identity import ProcessIdentity
from tests.support.processes import lives, marked, parent
from tests.support.service import InProcess, Service
from tests.support.waiting import until

# glibc's posix_spawn always ignores its two internal signals, SIGCANCEL and SIGSETXID, in the child (spawni.c).
_GLIBC_OWN = 0b11 << 31


@pytest.mark.heavy
async def test_p1_a_background_child_does_not_hold_the_job(service: Service) -> None:
    """A grandchild that keeps the pipe open does not delay the end, and is gone with it."""
    mark = f"6{os.getpid()}.5"
    began = time.monotonic()
    result = await service.run(f"sleep {mark} & echo hi")
    assert (result["ending"], result["exit_code"], result["stdout"]) == ("exited", 0, "hi\n")
    assert result["duration"] < 1
    assert time.monotonic() - began < 10
    assert not marked(f"sleep\0{mark}")


@pytest.mark.heavy
async def test_p2_a_left_daemon_lives_on_and_may_write(service: Service, tmp_path: Path) -> None:
    """With leave_children, a daemon outlives its job, and writing to the old pipe does not kill it."""
    proof = tmp_path / "proof"
    loop = f"while [ ! -e {tmp_path}/end ]; do echo tick || exit 1; echo tock >&2; sleep 0.02; done"
    daemon = f"({loop}; echo $? > {proof}) &"
    result = await service.run(f"{daemon} echo started", leave_children=True)
    assert result["ending"] == "exited"
    assert "started\n" in result["stdout"]
    # More than a pipe holds would block it if nobody read; the service going away must not kill it either.
    await service.restart()
    (tmp_path / "end").touch()
    assert await until(lambda: proof.exists() and proof.read_text() == "0\n")


@pytest.mark.heavy
async def test_t2_a_result_names_what_was_ended_with_it(service: Service, tmp_path: Path) -> None:
    """What a command leaves behind gets TERM, may save its work, and is named in the result, attempt by attempt."""
    ready = tmp_path / "ready"
    saves = f"trap 'echo saved > {tmp_path}/saved; exit' TERM; touch {ready}; while :; do sleep 0.02; done"
    command = f'rm -f {ready}; sh -c "$SAVES" & until [ -e {ready} ]; do sleep 0.02; done; exit 3'
    job = await service.submit(command, env={"SAVES": saves}, retries={"max": 1, "delay": 0})
    result = await service.result(job)
    assert (tmp_path / "saved").read_text() == "saved\n"
    for number in (1, 2):
        _, _, attempt = await service.get(f"/api/results/{job}/attempts/{number}")
        assert (attempt["ending"], attempt["exit_code"], attempt["detail"]) == ("exited", 3, None)
        assert any(left["command"].startswith("sh -c trap") for left in attempt["leftovers"])
        assert attempt["duration"] < 1
    assert result["leftovers_count"] == len(result["leftovers"])


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_p3_ending_a_job_leaves_no_children(service: Service, how: str) -> None:
    """Cancel and timeout end the whole tree, not only the shell."""
    mark = f"7{os.getpid()}.{len(how)}"
    command = f"sleep {mark} & sleep {mark}"
    job = await service.submit(command, timeout=0.3 if how == "timeout" else None)
    await until(lambda: len(marked(f"sleep\0{mark}")) == 2 or how == "timeout")
    if how == "cancel":
        status, headers, _ = await service.ask("POST", f"/api/jobs/{job}/cancel")
        assert (status, headers["Location"]) == (202, f"/api/statuses/{job}")
    result = await service.result(job)
    assert result["ending"] == ("cancelled" if how == "cancel" else "timed_out")
    assert (result["exit_code"], result["signal"]) == (None, "SIGTERM")
    assert not marked(f"sleep\0{mark}")


@pytest.mark.heavy
async def test_p4_setsid_double_fork_and_nohup_do_not_escape(service: Service) -> None:
    """A child in any session, under any parent, is gone when the job is done; an outsider is not touched."""
    mark = f"8{os.getpid()}.1"
    outsider = await asyncio.create_subprocess_exec("sleep", mark, start_new_session=True)
    try:
        result = await service.run(
            f"setsid sleep {mark} & (setsid sh -c 'nohup sleep {mark} & sleep {mark}' &) ;"
            f"nohup sleep {mark} & sleep 0.2"
        )
        assert (result["ending"], result["detail"]) == ("exited", None)
        assert marked(f"sleep\0{mark}") == [outsider.pid]
    finally:
        outsider.kill()
        await outsider.wait()


@pytest.mark.heavy
async def test_p5_a_forking_tree_does_not_outrun_the_killer(service: Service) -> None:
    """A tree that forks faster than one can kill by pid is gone to the last process; a canary lives."""
    mark = f"SHELLRUNNER_BOMB={os.getpid()}"
    canary = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        bomb = "b() { while :; do sh -c 'sleep 3 & setsid sleep 3 & sleep 0.05' & sleep 0.01; done; }"
        job = await service.submit(f"{bomb}; b & b & b & sleep 600", env=dict([mark.split("=")]))
        await until(lambda: len(marked(mark)) > 20)
        await service.ask("POST", f"/api/jobs/{job}/cancel")
        result = await service.result(job)
        assert (result["ending"], result["detail"]) == ("cancelled", None)
        assert marked(mark) == []
        assert lives(canary.pid)
    finally:
        canary.kill()
        await canary.wait()


@pytest.mark.heavy
async def test_p6_what_ignores_term_is_killed_after_the_grace(service: Service) -> None:
    """A command that ignores SIGTERM gets its grace, then SIGKILL, and the job is done."""
    await service.stop()
    await service.start(JOBS__KILL_GRACE=0.4)
    result = await service.run("trap '' TERM; echo deaf; while :; do sleep 0.05; done", timeout=1)
    assert (result["ending"], result["exit_code"], result["signal"]) == ("timed_out", None, "SIGKILL")
    assert 1.4 <= result["duration"] < 5
    assert result["stdout"] == "deaf\n"


@pytest.mark.heavy
async def test_p6_the_grace_is_for_the_tree_not_only_for_the_shell(service: Service, tmp_path: Path) -> None:
    """A child that cleans up at SIGTERM has its time, although the shell above it is dead at once."""
    clean = tmp_path / "clean"
    child = f"trap 'sleep 0.3; echo cleaned > {clean}; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    job = await service.submit(f'sh -c "{child}" & wait')
    await until(lambda: _written(service, job))
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    assert (await service.result(job))["ending"] == "cancelled"
    assert clean.read_text() == "cleaned\n"


async def _written(service: Service, job: Any) -> Any:
    _, _, output = await service.get(f"/api/statuses/{job}/output")
    return output


@pytest.mark.heavy
async def test_p7_a_thousand_immediate_cancels(service: Service) -> None:
    """A cancel in the first moment ends the job and nothing else: all jobs are done, the service lives."""
    server = service.runner.process

    async def one(number: Any) -> Any:
        job = await service.submit("sleep 100")
        if number % 3 == 0:
            await asyncio.sleep(0)
        await service.ask("POST", f"/api/jobs/{job}/cancel")
        return job

    for batch in range(10):
        jobs = await asyncio.gather(*(one(batch * 100 + n) for n in range(100)))
        endings = {(await service.result(job))["ending"] for job in jobs}
        assert endings == {"cancelled"}
    assert service.process.returncode is None
    assert service.runner.process is server
    assert server.returncode is None
    assert (await service.run("echo still"))["stdout"] == "still\n"


async def test_p8_a_reused_pid_is_never_signalled() -> None:
    """Another start time, boot or namespace under the same pid is another process: there is no way to signal it."""
    bystander = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        who = ProcessIdentity.from_pid(bystander.pid)
        assert who.open_pidfd() is not None
        assert who._replace(start=who.start + 1).open_pidfd() is None
        assert who._replace(boot="00000000-0000-0000-0000-000000000000").open_pidfd() is None
        assert who._replace(namespace="pid:[1]").open_pidfd() is None
    finally:
        bystander.kill()
        await bystander.wait()
    assert who.open_pidfd() is None


@pytest.mark.heavy
async def test_p9_no_zombies(service: Service) -> None:
    """Jobs that orphan their children leave no zombie behind, in keepers, fork server or service."""
    jobs = [await service.submit("(sleep 0.001 &) ; (true &)") for _ in range(300)]
    for job in jobs:
        assert (await service.result(job))["exit_code"] == 0
    keepers = {keeper.pid for keeper in service.keepers()}
    assert keepers
    ours = keepers | {parent(pid) for pid in keepers} | {service.runner.process.pid}
    assert [pid for pid, parent, state in _processes() if state == "Z" and parent in ours] == []


def _processes() -> Iterator[tuple[Any, ...]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            yield int(name), int(fields[1]), fields[0]


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM", "HUP"])
async def test_p10_death_by_signal_is_no_exit_code(service: Service, name: str) -> None:
    """What a signal ended is `signalled` with that signal and without a code."""
    result = await service.run(f"kill -{name} $$")
    assert (result["ending"], result["exit_code"], result["signal"]) == ("signalled", None, f"SIG{name}")


async def test_p10_137_is_only_the_commands_own_exit_code(service: Service) -> None:
    """A command that exits with 137 is `exited` with that code, not ended by SIGKILL."""
    result = await service.run("exit 137")
    assert (result["ending"], result["exit_code"], result["signal"]) == ("exited", 137, None)


async def test_p12_standard_input_is_empty(service: Service) -> None:
    """A command that reads its input finds its end at once."""
    result = await service.run("cat; read line; echo $?")
    assert (result["stdout"], result["exit_code"]) == ("1\n", 0)


@pytest.mark.heavy
async def test_standard_input_is_the_text_that_was_given(service: Service) -> None:
    """stdin arrives to the byte, in any script, also when it is longer than a pipe."""
    text = "Съешь ещё этих мягких 🥖\0\n" * 10_000
    job = await service.submit("cat", stdin=text)
    await service.result(job)
    assert await service.raw(job) == text.encode()


@pytest.mark.heavy
async def test_p13_nothing_leaks_into_the_job(service: Service) -> None:
    """No ignored or blocked signal, no descriptor beyond 2, only the promised variables, a session of its own."""
    script = "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd; ps -o sid=,pgid=,pid= -p $$; env"
    result = await service.run(f"exec sh -c {_quoted(script)}", env={"MINE": "да"})
    lines = result["stdout"].splitlines()
    masks = {line.split(":")[0]: int(line.split()[1], 16) for line in lines if line.startswith("Sig")}
    assert masks["SigBlk"] == 0
    assert masks["SigIgn"] & ~_GLIBC_OWN == 0
    # ls itself has the directory open as 3.
    assert [line for line in lines if re.fullmatch(r"\d+", line)] == ["0", "1", "2", "3"]
    variables = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    promised = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PYTHONUNBUFFERED", "MINE", "PWD"}
    assert set(variables) - {"_", "SHLVL", "OLDPWD"} == promised | {"SHELLRUNNER_JOB", "SHELLRUNNER_JOB_ID"}
    assert variables["SHELLRUNNER_JOB_ID"] == str(result["job_id"])
    assert (variables["LANG"], variables["MINE"]) == ("C.UTF-8", "да")
    session, group, _ = next(line.split() for line in lines if re.fullmatch(r"\s*\d+\s+\d+\s+\d+", line))
    assert session == group


def _quoted(text: Any) -> Any:
    return "'" + text.replace("'", "'\\''") + "'"


async def test_the_detail_says_why_a_command_did_not_start(service: Service, tmp_path: Path) -> None:
    """No such program, directory or permission is `failed_to_start` with the reason, and no code is made up."""
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for spec, words in (
        ({"argv": ["no-such-program"]}, "not found"),
        ({"argv": [str(tmp_path / "nothing")]}, "No such file"),
        ({"argv": [str(plain)]}, "not executable"),
        ({"command": "true", "cwd": "/no/such"}, "/no/such"),
    ):
        result = await service.run(**spec)
        assert (result["ending"], result["exit_code"], result["signal"]) == ("failed_to_start", None, None)
        assert words in result["detail"], result["detail"]
        assert (result["started"], result["duration"]) == (None, None)


async def test_argv_runs_without_a_shell_and_along_the_jobs_path(service: Service, tmp_path: Path) -> None:
    """argv is not interpreted, and its program is sought in the job's own PATH, in its own directory."""
    tool = tmp_path / "инструмент"
    tool.write_text("#!/bin/sh\npwd; printf '%s\\n' \"$@\"\n")
    tool.chmod(0o755)
    result = await service.run(
        argv=["инструмент", "$HOME; *", "два слова"],
        env={"PATH": f"/nowhere:{tmp_path}:/usr/bin:/bin"},
        cwd=str(tmp_path),
    )
    assert result["stdout"] == f"{tmp_path}\n$HOME; *\nдва слова\n"
    assert result["command"] == "'инструмент' '$HOME; *' 'два слова'"


async def test_merged_stderr_is_one_stream_in_order(service: Service) -> None:
    """With merge_stderr both come as stdout, exactly as written."""
    result = await service.run("for i in 1 2 3; do echo out$i; echo err$i >&2; done", merge_stderr=True)
    assert result["stdout"] == "out1\nerr1\nout2\nerr2\nout3\nerr3\n"
    assert result["stderr"] == ""


@pytest.mark.heavy
async def test_a_cancelled_queued_job_never_starts(service: Service, tmp_path: Path) -> None:
    """A job cancelled while it waits is done at once and leaves no trace of a start."""
    await service.stop()
    await service.start(SUPERVISOR__MAX_RUNNING=1)
    blocker = await service.submit("sleep 600")
    await service.running(blocker)
    waiting = await service.submit(f"touch {tmp_path}/started")
    await service.ask("POST", f"/api/jobs/{waiting}/cancel")
    result = await service.result(waiting)
    assert (result["ending"], result["started"], result["exit_code"]) == ("cancelled", None, None)
    status, _, body = await service.ask("POST", f"/api/jobs/{waiting}/cancel")
    assert (status, body["type"]) == (409, "/problems/already-done")
    await service.ask("POST", f"/api/jobs/{blocker}/cancel")
    await service.result(blocker)
    assert (await service.run("echo next"))["stdout"] == "next\n"
    assert not (tmp_path / "started").exists()


@pytest.mark.heavy
async def test_max_running_is_kept_and_priority_decides(service: Service, tmp_path: Path) -> None:
    """Never more than max_running at once, the larger priority first, then the older."""
    await service.stop()
    await service.start(SUPERVISOR__MAX_RUNNING=2)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    blockers = [await service.submit(f"read x < {gate}") for _ in range(2)]
    for job in blockers:
        await service.running(job)
    order = tmp_path / "order"
    jobs = [
        await service.submit(f"echo {name} >> {order}; sleep 0.05", priority=priority)
        for name, priority in (("low", -5), ("first", 0), ("second", 0), ("high", 10))
    ]
    _, _, body = await service.get("/api/statuses?state=running")
    assert {row["status_id"] for row in body["statuses"]} == set(blockers)
    await service.ask("POST", f"/api/jobs/{blockers[0]}/cancel")
    for job in jobs:
        await service.result(job)
    assert order.read_text().split() == ["high", "first", "second", "low"]


async def test_a_stopped_command_is_ended_by_a_cancel(service: Service) -> None:
    """A command that was stopped (SIGSTOP) can still be ended within its grace."""
    job = await service.submit("kill -STOP $$; echo never")
    await service.running(job)
    await service.ask("POST", f"/api/jobs/{job}/cancel")
    result = await service.result(job)
    assert (result["ending"], result["signal"], result["stdout"]) == ("cancelled", "SIGTERM", "")


@pytest.mark.heavy
async def test_a_stuck_keeper_is_killed_and_its_job_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that does nothing after timeout, grace and a margin is killed with its tree: the job is `lost`."""
    monkeypatch.setattr("shellrunner.supervisor.job_runner._STUCK_TIMEOUT", 0.3)
    mark = f"9{os.getpid()}.1"
    async with InProcess(tmp_path / "state", jobs={"kill_grace": 0.1}) as service:
        job = await service.submit(f"sleep {mark}", timeout=0.5)
        keeper = await service.running(job)
        service.signal(keeper, signal.SIGSTOP)
        result = await service.result(job)
    assert (result["ending"], result["exit_code"]) == ("lost", None)
    assert "killed by signal 9" in result["detail"]
    assert not marked(f"sleep\0{mark}")


@pytest.mark.heavy
async def test_a_cancel_just_as_the_command_ends_spares_the_keepers_next_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel just as the command ends does not get its keeper killed as stuck during the next job."""
    monkeypatch.setattr("shellrunner.supervisor.job_runner._STUCK_TIMEOUT", 0.3)
    async with InProcess(tmp_path / "state", jobs={"kill_grace": 0.0}) as service:

        async def end_at_once() -> None:
            job_id = await service.submit("true")
            await service.ask("POST", f"/api/jobs/{job_id}/cancel")

        for _ in range(20):
            await asyncio.gather(*(end_at_once() for _ in range(20)))
        jobs = [await service.submit("sleep 1") for _ in range(4)]
        # On a loaded machine one of the first jobs may be stuck in fact, and its keeper be killed: that is no fault.
        assert {(await service.result(job_id))["ending"] for job_id in jobs} == {"exited"}
