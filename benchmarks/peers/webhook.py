"""webhook (Go): runs a command for each request, and answers with its output when it has ended."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.figure import Round, Run, Sample
from benchmarks.http_load import Request, send
from benchmarks.peers.installation import Installation, Peer, free_port, wait_until_listening
from benchmarks.process_tree import CpuTimer, ProcessTree, running

_HOOK = {
    "id": "empty",
    "execute-command": "/bin/sh",
    "pass-arguments-to-command": [{"source": "string", "name": "-c"}, {"source": "string", "name": "true"}],
    "include-command-output-in-response": True,
}


@contextmanager
def _running(run: Run, installation: Installation, jobs: int) -> Iterator[Round]:
    hooks = run.directory / "hooks.json"
    hooks.write_text(json.dumps([_HOOK]))
    port = free_port()
    command = [
        installation.program("webhook"), "-hooks", str(hooks), "-ip", "127.0.0.1", "-port", str(port),
    ]  # fmt: skip
    with running(command, installation.environment()) as tree:
        wait_until_listening(port)
        yield partial(_sample, tree, port, jobs)


def _sample(tree: ProcessTree, port: int, jobs: int) -> Sample:
    timer = CpuTimer(tree)
    began = time.perf_counter()
    send(port, Request("GET", "/hooks/empty"), jobs, connections=8)
    seconds = time.perf_counter() - began
    used, client = timer.stop()
    return {"cpu": used / jobs, "wall": seconds / jobs, "client": client / jobs}


PEERS = (Peer("webhook", _running),)
