"""task-spooler and nq: queues for one's own terminal, where each submission is a process of its own."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.figure import Round, Run, Sample
from benchmarks.peers.installation import Installation, Peer
from benchmarks.process_tree import running

# Each submits $1 commands and waits for the last one to end.
_TASK_SPOOLER = "tsp -S 8; i=0; while [ $i -lt $1 ]; do tsp -n sh -c true >&2; i=$((i+1)); done; tsp -w; tsp -K"
_NQ = "i=0; while [ $i -lt $1 ]; do nq -q sh -c true; i=$((i+1)); done; nq -w"


@contextmanager
def _running(script: str, program: str, run: Run, installation: Installation, jobs: int) -> Iterator[Round]:
    installation.program(program)
    yield partial(_sample, script, run, installation, jobs)


def _sample(script: str, run: Run, installation: Installation, jobs: int) -> Sample:
    with tempfile.TemporaryDirectory(dir=run.directory) as directory:
        environment = installation.environment(
            NQDIR=directory, TMPDIR=directory, TS_SOCKET=f"{directory}/socket", TS_MAXFINISHED=str(jobs)
        )
        began = time.perf_counter()
        command = ["sh", "-c", f"{script}; echo; read line", "sh", str(jobs)]
        with running(
            command, environment, cwd=directory,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as tree:  # fmt: skip
            tree.stdout.readline()
            seconds = time.perf_counter() - began
            tree.settle()
            return {"cpu": tree.cpu_seconds() / jobs, "wall": seconds / jobs}


PEERS = (
    Peer("task-spooler", partial(_running, _TASK_SPOOLER, "tsp")),
    Peer("nq", partial(_running, _NQ, "nq")),
)
