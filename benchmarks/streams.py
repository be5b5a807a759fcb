"""Load on event streams: many readers in a process of their own, and one that reads as fast as it can."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_READERS = Path(__file__).with_name("stream_readers.py")
_CHUNK_BYTES = 1 << 18


class ReadersReport(NamedTuple):
    """What readers received."""

    bytes: int
    cpu: float
    delays: list[float]  # in seconds, of the time stamps in what they read


class Readers:
    """Readers of a stream, until they are stopped."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Take their process."""
        self._process = process

    def stop(self) -> ReadersReport:
        """Close the streams and return what was received."""
        printed, _ = self._process.communicate()
        if self._process.returncode != 0:
            raise ChildProcessError("the readers failed")
        report = json.loads(printed)
        return ReadersReport(report["bytes"], report["cpu"], [delay / 1e9 for delay in report["delays"]])


@contextmanager
def reading(port: int, path: str, connections: int) -> Iterator[Readers]:
    """Read a stream over this many connections."""
    command = [sys.executable, "-I", "-S", str(_READERS), str(port), path, str(connections)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise ChildProcessError("the readers did not start")
            yield Readers(process)
        finally:
            process.kill()


def read_whole(port: int, path: str, last: bytes) -> tuple[int, float]:
    """Read a stream until its end, which has `last` in it; return the bytes and the seconds."""
    buffer = bytearray(_CHUNK_BYTES)
    total = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began = time.perf_counter()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        tail = b""
        while last not in tail:
            received = connection.recv_into(buffer)
            if not received:
                raise ConnectionError(f"the stream ended with {tail!r}")
            total += received
            tail = tail[-len(last) :] + bytes(buffer[max(0, received - 4096) : received])
    return total, time.perf_counter() - began


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
