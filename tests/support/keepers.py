"""A real fork server and its keepers, with the protocol that the server uses with them."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shellrunner.keeper.identity import ProcessIdentity
from shellrunner.keeper.protocol import Unpacker, pack
from shellrunner.keeper.slot import SlotReader, slot_name
from tests.support import measurement


class Talk:
    """A connection on which messages of the keeper protocol are sent and received."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.connection.settimeout(20)
        self._unpacker = Unpacker()
        self._received: list[Any] = []
        self.hello: Any = None

    def send(self, **message: Any) -> None:
        self.connection.sendall(pack(message))

    def receive(self) -> Any:
        while not self._received:
            data = self.connection.recv(65536)
            if not data:
                raise EOFError
            self._received += self._unpacker.feed(data)
        return self._received.pop(0)


class ForkServer(Talk):
    """A real fork server on a state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state
        for name in ("slots", "runs"):
            (state / name).mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", measurement.fork_server_program(), str(theirs.fileno()), state],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.keepers: list[Talk] = []
        super().__init__(ours)

    def end(self) -> None:
        """Close every connection, and see that it exits."""
        for talk in (*self.keepers, self):
            talk.connection.close()
        try:
            assert self.process.wait(20) == 0
        except subprocess.TimeoutExpired:  # a test has failed, and left a command running
            self._kill_keepers()
            self.process.wait(20)
            raise

    def _kill_keepers(self) -> None:
        """Kill those that are left; the fork server ends their commands, and then itself."""
        for path in (self.state / "slots").glob("*.slot"):
            header = self.slot(int(path.stem)).header()
            pidfd = ProcessIdentity.from_dict(header["identity"]).open_pidfd() if header else None
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)

    def keeper(self, number: int = 1) -> Talk:
        """Have a keeper made, and connect to it."""
        self.send(do="fork", keeper=number, header={"history": "h" * 32, "program": "test"})
        assert self.receive()["keeper"] == number
        return self.reconnect(number)

    def reconnect(self, number: int) -> Talk:
        """Connect to a keeper that is there."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.state / "slots" / f"{number}.sock"))
        keeper = Talk(connection)
        keeper.hello = keeper.receive()
        self.keepers.append(keeper)
        return keeper

    def slot(self, number: int = 1) -> SlotReader:
        directory = os.open(self.state / "slots", os.O_RDONLY)
        try:
            return SlotReader(directory, slot_name(number))
        finally:
            os.close(directory)


def start(keeper: Talk, job: int, command: str, **more: Any) -> None:
    """Have a shell run `command`; `more` are members of the message."""
    defaults = {
        "cwd": "/", "env": {"PATH": "/usr/bin:/bin", "SHELLRUNNER_JOB": f"{job}:t"}, "stdin": None, "timeout": None,
        "grace": 1, "merge_stderr": False, "leave_children": False, "output_bytes": 1 << 40,
    }  # fmt: skip
    keeper.send(**{"do": "start", "job": job, "token": "t", "argv": ["/bin/sh", "-c", command]} | defaults | more)


def keep(keeper: Talk, slot: SlotReader, job: int, command: str, **more: Any) -> tuple[dict[str, Any], bytes]:
    """Run a command to its end; return its end and what it wrote, as far as that lies in the slot."""
    start(keeper, job, command, **more)
    assert keeper.receive()["say"] == "ended"
    return ended(slot, job)


def record_of(slot: SlotReader, job: int, token: str = "t") -> Any:
    """Return the job's record in the slot, which must be there."""
    record = slot.find(job, token)
    assert record is not None
    return record


def ended(slot: SlotReader, job: int) -> tuple[dict[str, Any], bytes]:
    """Return the end of a job, and its output, as the slot has them."""
    record = record_of(slot, job)
    return record.end, slot.data(record, 0, record.end["stdout"] + record.end["stderr"])


PROBE_ENVIRONMENT = (
    "grep -E '^Sig(Blk|Ign)' /proc/self/status;"
    "ls -l /proc/self/fd | tr -s ' ' | cut -d' ' -f1,9- | sed 's/[0-9]*\\]//';"
    "ps -o sid=,pgid=,pid= -p $$ | tr -s ' ' '\\n' | sort -u | wc -l;"
    "pwd; env | sort; umask; echo err >&2; exit 7"
)


def surroundings(keeper: Talk, slot: SlotReader, job: int, **more: Any) -> tuple[Any, ...]:
    """Return a command's surroundings as (exit code, bytes of stderr, lines) without what names the job.

    The lines are of both streams. Without the size of stdout: that has the digits of process ids.
    """
    start(keeper, job, PROBE_ENVIRONMENT, cwd="/usr", **more)
    if more.get("stream"):
        give(keeper, end=True, job=job)
    assert keeper.receive()["say"] == "ended"
    end, data = ended(slot, job)
    lines = [line for line in data.splitlines() if b"SHELLRUNNER_JOB" not in line]
    plain = [re.sub(rb"(/proc/|/dev/pts/)[0-9]+", rb"\1N", line) for line in lines]
    return end["exit_code"], end["stderr"], plain


def give(
    keeper: Talk, data: bytes = b"", offset: int | None = None, job: int = 1, **more: Any
) -> tuple[int | None, str | None]:
    """Send input to a job; return `(offset, refused)` of the keeper's answer."""
    text = b64encode(data).decode()
    keeper.send(**{"do": "input", "job": job, "token": "t", "offset": offset, "data": text, "end": False} | more)
    took = keeper.receive()
    assert (took["say"], took["job"], took["token"]) == ("took", job, "t"), took
    return took["offset"], took["refused"]


@contextlib.contextmanager
def kept(server: ForkServer, number: int = 1) -> Iterator[tuple[Talk, SlotReader]]:
    """Yield a keeper and its slot."""
    keeper, slot = server.keeper(number), server.slot(number)
    try:
        yield keeper, slot
    finally:
        slot.close()
