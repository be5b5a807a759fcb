"""A process of another user that listens where a service was expected, and keeps what it is sent."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from tests.support.waiting import WAIT_TIMEOUT, within

OTHER_UID = 54_321  # nobody has this uid, and nobody needs to: the kernel does not mind

# Imported before the change of user: another may not be able to read Python's files. It ends with its input, once its
# connections have ended, and then prints what came on all of them.
_PROGRAM = """
import os, select, socket, ssl, sys
uid, port, certificate, listeners = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], []
tls = None
if certificate:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
for where in sys.argv[4:]:
    family = socket.AF_UNIX if where[0] == "/" else socket.AF_INET6 if ":" in where else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(where if family == socket.AF_UNIX else (where, port))
    port = port or (family != socket.AF_UNIX and listener.getsockname()[1])
    if family == socket.AF_UNIX:
        os.chmod(where, 0o777)
    listener.listen(50)
    listeners.append(listener)
print(int(port), flush=True)
came, accepted, open_ones, waiting = b"", 0, set(), True
while waiting or open_ones:
    ready, _, _ = select.select([*listeners, *open_ones, *([sys.stdin] if waiting else [])], [], [], 10)
    if not ready:
        break
    for each in ready:
        if each is sys.stdin:
            waiting = False
        elif each in listeners:
            connection, _ = each.accept()
            accepted += 1
            try:
                open_ones.add(tls.wrap_socket(connection, server_side=True) if tls else connection)
            except OSError:
                pass
        else:
            try:
                data = each.recv(65536)
                came += data
                if data:
                    each.sendall(b"HTTP/1.1 401 No\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
            except OSError:
                data = b""
            if not data:
                open_ones.discard(each)
                each.close()
print(accepted, came.hex(), flush=True)
"""


class Squatter:
    """Who listens; `accepted` and `came`, how many connections and which bytes, are there after `leave`."""

    accepted, came = 0, b""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process, self.port = process, port

    async def leave(self) -> None:
        """Have it stop listening, and read what it was sent."""
        output, _ = await asyncio.wait_for(self._process.communicate(b""), WAIT_TIMEOUT)
        accepted, _, came = output.decode().strip().partition(" ")
        self.accepted, self.came = int(accepted), bytes.fromhex(came)


@asynccontextmanager
async def squatting(
    *places: str, port: int = 0, uid: int = OTHER_UID, certificate: str = ""
) -> AsyncIterator[Squatter]:
    """Yield a squatter of this user at these addresses, all with one port, or at absolute paths.

    With a file of a certificate and its key it speaks TLS.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _PROGRAM, str(uid), str(port), certificate, *places,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd="/",
    )  # fmt: skip
    try:
        line = await asyncio.wait_for(cast("asyncio.StreamReader", process.stdout).readline(), WAIT_TIMEOUT)
        assert line, "it could not listen"
        yield Squatter(process, int(line))
    finally:
        if process.returncode is None:
            process.kill()
            await within(process.wait(), what="what listened has ended")
