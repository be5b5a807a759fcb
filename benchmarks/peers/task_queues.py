"""Python's task queues: a task that runs a command, by workers of their own, results kept as each does by itself."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.figure import Round, Run, Sample
from benchmarks.peers.installation import Installation, Peer, free_port, wait_until_listening
from benchmarks.process_tree import CpuTimer, ProcessTree, running

_REDIS = "redis-server --bind 127.0.0.1 --port {port} --dir {directory} >redis.log 2>&1 & "
# The worker of each, started by a shell; {python} is the interpreter that has the package.
_WORKERS = {
    "huey": "exec {python} -m huey.bin.huey_consumer huey_tasks.queue -k process -w 8 -q",
    "rq": _REDIS + "exec {python} -m rq.cli worker-pool -q -n 8 --url redis://127.0.0.1:{port}",
    "celery": _REDIS + "exec {python} -m celery -A celery_tasks worker -c 8 -l error",
    "dramatiq": _REDIS + "exec {python} -m dramatiq dramatiq_tasks -p 4 -t 2",
}


@contextmanager
def _running(package: str, run: Run, installation: Installation, jobs: int) -> Iterator[Round]:
    python = installation.python(package)
    if _REDIS in _WORKERS[package]:
        installation.program("redis-server")
    port = free_port()
    with tempfile.TemporaryDirectory(dir=run.directory) as directory:
        environment = installation.environment(QUEUE=f"{directory}/queue.db", REDIS=f"redis://127.0.0.1:{port}/0")
        script = _WORKERS[package].format(python=python, port=port, directory=directory)
        with running(
            ["sh", "-c", script], environment, cwd=directory, stop_timeout=2,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as tree:  # fmt: skip
            if _REDIS in _WORKERS[package]:
                wait_until_listening(port)
            command = [python, "-m", "producer", f"{package}_tasks"]
            with subprocess.Popen(
                command, env=environment, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as producer:
                try:
                    _produce(producer, 8)  # every worker is there
                    yield partial(_sample, tree, producer, jobs)
                finally:
                    producer.kill()


def _produce(producer: "subprocess.Popen[bytes]", jobs: int) -> dict[str, float]:
    assert producer.stdin is not None
    assert producer.stdout is not None
    producer.stdin.write(b"%d\n" % jobs)
    producer.stdin.flush()
    if not (line := producer.stdout.readline()):
        raise ChildProcessError("the producer failed")
    report: dict[str, float] = json.loads(line)
    return report


def _sample(tree: ProcessTree, producer: "subprocess.Popen[bytes]", jobs: int) -> Sample:
    timer = CpuTimer(tree)
    report = _produce(producer, jobs)
    used, _ = timer.stop()
    return {"cpu": used / jobs, "wall": report["wall"] / jobs, "client": report["cpu"] / jobs}


PEERS = tuple(Peer(package, partial(_running, package)) for package in _WORKERS)
