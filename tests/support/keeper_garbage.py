"""Run a keeper in this process, and print what its jobs leave to the garbage collector: `python -m … STATE_DIR`.

A program of its own, since a keeper becomes a subreaper and waits for every child of its process.
"""

import gc
import os
import signal
import socket
import sys
from collections import Counter
from typing import Any, Final

from shellrunner.keeper import process_tree
from shellrunner.keeper.loop import Keeper
from shellrunner.keeper.slot import SlotWriter
from tests.support.keepers import Talk, start

_KINDS: Final[dict[str, dict[str, Any]]] = {
    "true": {},
    "echo out; echo err >&2": {},
    "cat": {"stdin": "text"},
    "sleep 60 & sleep 60 >&- 2>&- & exit 3": {},
    "exec sleep 60": {"timeout": 0.01},
    "head -c 200000 /dev/zero": {"output_bytes": 100_000},
    "echo hello; exec cat": {"stream": True},
    "tty": {"tty": [24, 80]},
    "ulimit -n": {"limits": {"open_files": 64}},
    "kill -9 $$": {},
    "missing": {"cwd": "/nowhere"},
}


def _run(keeper: Keeper, talk: Talk, job: int, command: str, **more: Any) -> None:
    start(talk, job, command, **more)
    if more.get("stream"):
        keeper._run_once()
        talk.send(do="input", job=job, token="t", offset=None, data="", end=True)
    talk.connection.setblocking(False)
    while True:
        keeper._run_once()
        try:
            while talk.receive()["say"] != "ended":
                pass
        except BlockingIOError:
            continue
        break
    talk.connection.settimeout(20)


def main(state_dir: str) -> None:
    """Run each kind of job once to get used to it, and again with the collector saving what it finds."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as in the fork server: a terminal's end sends it
    process_tree.become_subreaper()
    state = os.open(state_dir, os.O_RDONLY)
    slot = SlotWriter.create(state, "1.slot")
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(f"{state_dir}/1.sock")
    listener.listen()
    channel, _other_end = socket.socketpair()
    keeper = Keeper(state, slot, listener, {}, channel)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"{state_dir}/1.sock")
    keeper._run_once()
    talk = Talk(connection)
    talk.hello = talk.receive()
    for job, (command, more) in enumerate(_KINDS.items(), 1):
        _run(keeper, talk, job, command, **more)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    for job, (command, more) in enumerate(_KINDS.items(), 101):
        _run(keeper, talk, job, command, **more)
        gc.collect()
        if gc.garbage:
            print(command, dict(Counter(type(each).__qualname__ for each in gc.garbage)))
            gc.garbage.clear()
    print("all kinds")


if __name__ == "__main__":
    main(sys.argv[1])
