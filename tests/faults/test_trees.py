"""T1, T2 and T3 of docs/explanation/failures.md again: more shells, more wrappers, at once, and beside busy loops.

Through a running service, as clients see it.
"""

import asyncio
import contextlib
import os
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import lives, marked
from tests.support.service import Service
from tests.support.waiting import until

# By shell: a script that writes `a` and `b` through a filter which is not the command's own child process in the end.
FILTERED = {
    "bash": "exec > >(tee {log}) 2>&1; echo a; echo b",
    "bash, stderr": "exec 2> >(tee {log}); echo a >&2; echo b >&2",
    "bash, both streams": "exec > >(tee {log}) 2> >(cat >&2); echo a; echo b",
    "bash, nested": "exec > >(cat > >(tee {log})); echo a; echo b",
    "bash, a busy filter": "exec > >(awk '{{ while (x++ < NR * 300000) ; print }}' | tee {log}); echo a; echo b",
    "bash, the last command": "{{ echo a; echo b; }} > >(tee {log})",
    "bash, exec": "exec /bin/sh -c 'echo a; echo b' > >(tee {log})",
    "bash, coproc": "coproc tee {log} >&2; echo a >&${{COPROC[1]}}; echo b >&${{COPROC[1]}}",
    "zsh": "exec > >(tee {log}) 2>&1; echo a; echo b",
    "ksh": "exec > >(tee {log}) 2>&1; echo a; echo b",
    "sh, a pipe with a name": "mkfifo {log}.p; tee {log} < {log}.p & exec > {log}.p; rm {log}.p; echo a; echo b",
    "busybox": "mkfifo {log}.p; tee {log} < {log}.p & exec > {log}.p; rm {log}.p; echo a; echo b",
    "dash": "(tee {log} < {log}.p &) ; exec > {log}.p; echo a; echo b",
}


@contextlib.asynccontextmanager
async def busy_loops(count: int) -> AsyncIterator[None]:
    """Keep this many processes busy meanwhile."""
    loops = [await asyncio.create_subprocess_exec("sh", "-c", "while :; do :; done") for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            await loop.wait()


def argv(kind: str, script: str) -> list[str]:
    """Return the words that run the script in the shell that `kind` begins with; skip if it is not installed."""
    shell = kind.split(",", maxsplit=1)[0]
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed here")
    return [shell, *(["sh"] if shell == "busybox" else []), "-c", script]


@pytest.mark.heavy
@pytest.mark.parametrize("kind", FILTERED)
async def test_t1_whatever_shell_and_filter(service: Service, tmp_path: Path, whole: bool, kind: str) -> None:
    """Both lines are in the output and in the filter's file, every time, and nothing counts as left behind."""
    for number in range(20 if whole else 3):
        log = tmp_path / f"{number}.log"
        if kind == "dash":
            await asyncio.to_thread(os.mkfifo, f"{log}.p")
        result = await service.run(argv=argv(kind, FILTERED[kind].format(log=log)))
        assert (result["ending"], result["exit_code"], result["leftovers"]) == ("exited", 0, None)
        assert result["stdout"] + result["stderr"] == log.read_text() == "a\nb\n"


@pytest.mark.heavy
@pytest.mark.parametrize("loops", [0, 4])
async def test_t1_twenty_thousand_lines_eight_at_a_time(
    service: Service, tmp_path: Path, whole: bool, loops: int
) -> None:
    """Many filters at once, also beside busy loops: every line is in the output and in the file."""
    if not (loops or whole):
        pytest.skip("only in the whole selection")
    expected = "".join(f"line {n}\n" for n in range(20_000))
    script = 'for ((i = 0; i < 20000; i++)); do echo "line $i"; done'
    async with busy_loops(loops):
        jobs = [
            await service.submit(argv=["bash", "-c", f"exec > >(tee {tmp_path}/{n}) 2>&1; {script}"])
            for n in range(24 if whole else 8)
        ]
        for number, job in enumerate(jobs):
            assert (await service.result(job, 60))["exit_code"] == 0
            assert await service.raw(job) == expected.encode()
            assert (tmp_path / f"{number}").read_text() == expected


@pytest.mark.heavy
async def test_t1_many_substitutions_beside_busy_loops(service: Service, tmp_path: Path, whole: bool) -> None:
    """Sixteen at a time on a loaded machine none loses a line."""
    async with busy_loops(4):
        for batch in range(12 if whole else 1):
            logs = [tmp_path / f"{batch}-{n}" for n in range(16)]
            jobs = [
                await service.submit(argv=["bash", "-c", f"exec > >(tee {log}) 2>&1; echo a; echo b"]) for log in logs
            ]
            for job, log in zip(jobs, logs, strict=True):
                assert (await service.result(job))["stdout"] == log.read_text() == "a\nb\n"


WORKER = "trap 'sleep 0.1; echo saved >> $SAVED; exit 0' TERM; echo $$ >> $SAVED; while :; do sleep 0.02; done"
SESSION_LEADER = """import os
if os.fork() == 0:
    os.setsid()
    os.execlp("sh", "sh", "-c", os.environ["WORKER"])
os.wait()"""
WRAPPED = {
    "timeout": 'timeout 60 sh -c "$WORKER"',
    "timeout --foreground": 'timeout --foreground 60 sh -c "$WORKER"',
    "setsid": 'setsid -w sh -c "$WORKER"',
    "flock": 'flock $SAVED.lock sh -c "$WORKER"',
    "script": "script -qc 'exec sh -c \"$WORKER\"' /dev/null",
    "nohup": 'nohup sh -c "$WORKER"',
    "xargs": 'echo x | xargs -I{} sh -c "$WORKER"',
    "find": 'find /dev/null -exec sh -c "$WORKER" \\;',
    "sudo": 'sudo -n --preserve-env=SAVED sh -c "$WORKER"',
    "su": 'su -p root -s /bin/sh -c "$WORKER"',
    "runuser": 'runuser -m root -s /bin/sh -c "$WORKER"',
    "unshare": 'unshare -p -f sh -c "$WORKER"',
    "chrt": 'chrt -b 0 sh -c "$WORKER"',
    "ionice": 'ionice -c3 sh -c "$WORKER"',
    "taskset": 'taskset 1 sh -c "$WORKER"',
    "strace": 'strace -f -o /dev/null sh -c "$WORKER"',
    "make": "printf 'all:\\n\\t@sh -c \"$$WORKER\"\\n' | make -f -",
    "perl": 'perl -e \'setpgrp(0, 0); exec "sh", "-c", $ENV{WORKER}\'',
    "python3": f"python3 -c '{SESSION_LEADER}'",
}
SELECTION = ("find", "perl", "python3", "su", "unshare")  # what tests/test_trees.py has not tried


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("wrapper", WRAPPED)
async def test_t3_whatever_wrapper(service: Service, tmp_path: Path, whole: bool, wrapper: str, how: str) -> None:
    """A worker under this wrapper saves at a cancel and at the timeout, and nothing of it is left."""
    if not whole and (how == "timeout" or wrapper not in SELECTION):
        pytest.skip("only in the whole selection")
    if not shutil.which(wrapper.split(maxsplit=1)[0]):
        pytest.skip(f"{wrapper} is not installed here")
    saved = tmp_path / "saved"
    env = {"WORKER": WORKER, "SAVED": str(saved), "SHELL": "/bin/bash"}
    job = await service.submit(WRAPPED[wrapper], env=env, timeout=1.5 if how == "timeout" else None)
    with contextlib.suppress(AssertionError):
        await until(saved.exists, 1.2)
    if not saved.exists():
        await service.ask("POST", f"/api/jobs/{job}/cancel")
        pytest.skip(f"{wrapper} cannot be used here: {(await service.result(job))['stderr']}")
    if how == "cancel":
        await service.ask("POST", f"/api/jobs/{job}/cancel")
    result = await service.result(job)
    assert result["ending"] == ("cancelled" if how == "cancel" else "timed_out")
    pid, *rest = saved.read_text().split()
    assert rest[:1] == ["saved"]
    assert not lives(int(pid)) or wrapper == "unshare"  # where it is its namespace's number
    assert marked(str(saved)) == []


@pytest.mark.heavy
async def test_t2_t3_random_trees_leave_nothing(service: Service, tmp_path: Path, whole: bool, seed: int) -> None:
    """Trees of random shape, ended in a random way: each worker has its TERM, nothing is left, the result is true."""
    chance = random.Random(seed)
    (tmp_path / "worker").write_text(WORKER)

    def one() -> str:
        wrappers = ("", "setsid ", "setsid -w ", "timeout 60 ", "nohup ", "env ", "timeout 60 setsid -w ")
        return f"{chance.choice(wrappers)}sh {tmp_path}/worker &"

    for _ in range(30 if whole else 4):
        saved = tmp_path / f"{chance.random()}"
        count = chance.randrange(1, 5)
        parts = " ".join(one() for _ in range(count))
        how = chance.choice(["cancel", "exit"])
        last = (
            "wait" if how == "cancel" else f"while [ $(grep -c . {saved}) != {count} ]; do sleep 0.01; done; exit 9"
        )
        job = await service.submit(f"touch {saved}; {parts} {last}", env={"SAVED": str(saved)})
        await until(lambda: saved.exists() and len(saved.read_text().splitlines()) >= count)  # noqa: B023
        if how == "cancel":
            await service.ask("POST", f"/api/jobs/{job}/cancel")
        result: dict[str, Any] = await service.result(job)
        assert saved.read_text().split().count("saved") >= count
        assert marked(str(saved)) == []
        if how == "exit":
            assert (result["ending"], result["exit_code"]) == ("exited", 9)
            assert result["leftovers_count"] >= count
        else:
            assert (result["ending"], result["leftovers"]) == ("cancelled", None)
