"""Flask-Shell2HTTP: commands in a thread pool of a Flask application, results in memory.

It has been seen to run fewer commands than it accepted, so each command writes a byte, and the bytes are counted.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.figure import Round, Run, Sample, Unavailable
from benchmarks.peers.installation import Installation, Peer, free_port, wait_until_listening
from benchmarks.process_tree import CpuTimer, ProcessTree, running

_STALLED_SECONDS = 3


@contextmanager
def _running(run: Run, installation: Installation, jobs: int) -> Iterator[Round]:
    port = free_port()
    ran = run.directory / "ran"
    command = [installation.python("flask_shell2http"), "-m", "shell2http_app", str(port)]
    with running(command, installation.environment(), stdout=subprocess.DEVNULL) as tree:
        wait_until_listening(port)
        yield partial(_sample, tree, port, ran, jobs)


def _sample(tree: ProcessTree, port: int, ran: Path, jobs: int) -> Sample:
    ran.write_bytes(b"")
    timer = CpuTimer(tree)
    began = time.perf_counter()
    for number in range(jobs):
        _submit(port, ran, number)
    grown = time.monotonic()
    count = 0
    while count < jobs and time.monotonic() < grown + _STALLED_SECONDS:
        if (size := ran.stat().st_size) > count:
            count, grown = size, time.monotonic()
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    used, client = timer.stop()
    if count < jobs:
        raise Unavailable(f"ran {count} of {jobs} accepted commands")
    return {"cpu": used / jobs, "wall": seconds / jobs, "client": client / jobs}


def _submit(port: int, ran: Path, number: int) -> None:
    """Submit a command; its number makes it differ from the others, since equal ones are refused while one runs."""
    connection = HTTPConnection("127.0.0.1", port)  # the server closes it after each answer
    body = json.dumps({"args": ["-c", f"echo >> {ran}", str(number)]})
    connection.request("POST", "/commands/sh", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 202:
        raise ConnectionError(response.read().decode())
    connection.close()


PEERS = (Peer("Flask-Shell2HTTP", _running),)
