"""Processes of other users, who try what the service's own user may do."""

import asyncio
import sys

# Imported before the change of user: another may not be able to read Python's files.
_PROGRAM = """
import os, socket, struct, sys
uid, family, host, port, leaves = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
sent = sys.stdin.buffer.read()
os.setgroups([]); os.setgid(uid); os.setuid(uid)
c = socket.socket(family)
c.settimeout(10)
try:
    c.connect((host, port) if port else host)
except OSError as error:
    sys.exit(type(error).__name__)
c.sendall(sent)
if leaves == "reset":
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
if leaves == "half":
    c.shutdown(socket.SHUT_WR)
while leaves in ("", "half") and (came := c.recv(65536)):
    sys.stdout.buffer.write(came)
c.close()
"""


async def send(uid: int, family: int, where: tuple[str, int] | str, sent: bytes, leaves: str = "") -> str:
    """Have a process of this user send these bytes; what it was answered, or why it could not connect.

    `leaves`: once all is sent it does not wait for an answer (`close`, `reset`), or closes its side (`half`).
    """
    host, port = (where, 0) if isinstance(where, str) else where
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _PROGRAM, str(uid), str(family), host, str(port), leaves,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd="/",
    )  # fmt: skip
    output, complaint = await process.communicate(sent)
    return (output or complaint).decode("latin-1")
