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


# One process connects, and passes its socket to another.
_HAND_ON = """
import os, socket, sys
maker, heir, family, host, port, length = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
sent = sys.stdin.buffer.read()
first, second = sent[:int(length)], sent[int(length):]
def become(uid):
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
left, right = socket.socketpair()
if (pid := os.fork()) == 0:
    become(maker)
    c = socket.socket(family)
    c.connect((host, int(port)) if int(port) else host)
    c.sendall(first)
    if first:
        os.write(1, c.recv(65536))
    socket.send_fds(left, [b"x"], [c.fileno()])
    os._exit(0)
_, (fd,), _, _ = socket.recv_fds(right, 1, 1)
os.waitpid(pid, 0)
become(heir)
c = socket.socket(family, fileno=fd)
c.settimeout(10)
c.sendall(second)
while came := c.recv(65536):
    os.write(1, came)
"""


async def hand_on(
    family: int, where: tuple[str, int] | str, maker: tuple[int, bytes], heir: tuple[int, bytes]
) -> str:
    """Have one user connect and send these bytes, and another send the others; return all that was answered."""
    host, port = (where, 0) if isinstance(where, str) else where
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _HAND_ON, str(maker[0]), str(heir[0]), str(int(family)), host, str(port),
        str(len(maker[1])), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, cwd="/",
    )  # fmt: skip
    output, complaint = await process.communicate(maker[1] + heir[1])
    assert process.returncode == 0, complaint
    return output.decode("latin-1")
