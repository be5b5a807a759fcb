"""A process of another user that holds as many connections as it gets, and opens each again that is closed."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.waiting import within

# Imported before the change of user: another may not be able to read Python's files.
_PROGRAM = """
import os, resource, select, socket, sys, time
uid, number, pause, address, port = *map(int, sys.argv[1:3]), float(sys.argv[3]), sys.argv[4], int(sys.argv[5])
sent = bytes.fromhex(sys.argv[6])
resource.setrlimit(resource.RLIMIT_NOFILE, (number + 100, number + 100))
os.setgroups([]); os.setgid(uid); os.setuid(uid)
held, waiting, opened, is_ready = {}, set(), 0, False
poller = select.poll()
poller.register(0, select.POLLIN)
def begin():
    c = socket.socket(socket.AF_INET if port else socket.AF_UNIX)
    c.setblocking(False)
    try:
        c.connect((address, port) if port else address)
    except BlockingIOError:
        if not port:
            c.close()
            return
    except OSError:
        c.close()
        return
    held[c.fileno()] = c
    waiting.add(c.fileno())
    poller.register(c, select.POLLIN | select.POLLOUT)
while True:
    while len(held) < number:
        before = len(held)
        begin()
        if len(held) == before:
            break
        opened += 1
    if opened >= number and not is_ready:
        is_ready = True
        print("ready", flush=True)
    for fd, events in poller.poll(1000):
        if fd == 0:
            sys.exit()
        c = held[fd]
        try:
            if fd in waiting and events & select.POLLOUT:
                waiting.discard(fd)
                poller.modify(fd, select.POLLIN)
                c.send(sent)
            elif events & select.POLLIN and c.recv(65536):
                continue
            elif events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                raise ConnectionResetError
        except OSError:
            poller.unregister(fd)
            waiting.discard(fd)
            del held[fd]
            c.close()
    time.sleep(pause)
"""


@asynccontextmanager
async def hoarding(
    uid: int, where: tuple[str, int] | str, number: int, sent: bytes = b"", pause: float = 0.05
) -> AsyncIterator[None]:
    """Have a process of this user hold so many connections, each after it has sent these bytes, until the end.

    `pause`: seconds between its looks at which of them were closed.
    """
    address, port = (where, 0) if isinstance(where, str) else where
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _PROGRAM, *map(str, (uid, number, pause, address, port, sent.hex())),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd="/",
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        yield
        assert process.returncode is None
    finally:
        process.stdin.close()
        await within(process.wait(), what="the hoarder has ended")
