"""Another user's process that takes a TCP address, in each way that needs no privilege."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.waiting import WAIT_TIMEOUT

OTHER_UID = 54_321
# Imported before the change of user: another may not be able to read Python's files.
_PROGRAM = """
import os, socket, sys
uid, host, port, options = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4].split()
os.setgroups([]); os.setgid(uid); os.setuid(uid)
listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
if "reuse" in options:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
if ":" in host:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, "only" in options)
if "device" in options:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
try:
    listener.bind((host, port))
    listener.listen()
except OSError as error:
    print(type(error).__name__, error.errno, flush=True)
    sys.exit()
print("listens", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_user_listening(host: str, port: int, options: str = "") -> Iterator[str]:
    """Have another user listen there; yield `listens`, or the error.

    `options`: `reuse` (SO_REUSEADDR and SO_REUSEPORT), `only` (IPV6_V6ONLY), `device` (SO_BINDTODEVICE).
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, str(OTHER_UID), host, str(port), options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(WAIT_TIMEOUT)
        process.stdout.close()
