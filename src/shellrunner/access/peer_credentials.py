"""The kernel's word on who is at the other end of a connection: unix(7) and sock_diag(7).

Asked by the gate, on its one thread. Must not know what the answer is good for: what is not certain is None.
"""

import atexit
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h; none of them is in the standard library.
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_ESTABLISHED: Final = 1
_NO_COOKIE: Final = b"\xff" * 8
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_QUESTION: Final = struct.Struct("=BBBxI2s2s16s16sI8s")  # inet_diag_req_v2
_ROW: Final = struct.Struct("=xB62xII")  # inet_diag_msg: of it the state, the uid and the inode
_ROOM: Final = 4096  # bytes; an answer has about 130

_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2
_LOOPBACK6: Final = bytes(15) + b"\x01"


def peer_uid(connection: socket.socket) -> int | None:
    """Return the uid of the process at the other end of an accepted connection, or None: the kernel cannot say.

    That is whoever connected a Unix socket, or owns the connecting socket of a TCP connection over loopback that is
    open in both directions before and after it is asked.
    """
    ask = _ASK.get(connection.family)
    try:
        uid = None if ask is None else ask(connection)
    except OSError:  # it is closed, not connected, no TCP, or the kernel lacks sock_diag
        return None
    return None if uid in _NOBODY else uid


def _of_unix(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid: int = struct.unpack("=iII", credentials)[1]
    return uid


def _of_tcp(connection: socket.socket) -> int | None:
    ours = _end(connection.family, connection.getsockname())
    theirs = _end(connection.family, connection.getpeername())
    if not (_is_loopback(ours[0]) and _is_loopback(theirs[0])):
        return None
    uid = _kernel.owner(theirs, ours)
    # Asked last: if it is still whole, then nobody else can have taken the client's port before the kernel answered.
    is_whole = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED
    return uid if is_whole else None


_ASK: Final[dict[int, Callable[[socket.socket], int | None]]] = {
    socket.AF_UNIX: _of_unix,
    socket.AF_INET: _of_tcp,
    socket.AF_INET6: _of_tcp,
}


def _end(family: int, name: Any) -> tuple[bytes, bytes]:
    """An address and a port as the kernel has them, IPv4 as such also where IPv6 maps it."""
    return socket.inet_pton(family, name[0]).removeprefix(_MAPPED), name[1].to_bytes(2, "big")


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == _LOOPBACK6


class _Kernel:
    """A socket to the kernel that stays open, because to open one costs more than to ask."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def owner(self, near: tuple[bytes, bytes], far: tuple[bytes, bytes]) -> int | None:
        """Return who owns the TCP socket that has the address `near` and is connected to `far`.

        Raises:
            OSError: the kernel does not answer.
        """
        family = socket.AF_INET if len(near[0]) == 4 else socket.AF_INET6
        pair = (near[1], far[1], near[0], far[0], 0, _NO_COOKIE)
        question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 1 << _ESTABLISHED, *pair)
        try:
            row = self._ask(question)
        except OSError:  # ENOBUFS: answers were lost; whatever it is, a new socket has nothing of it
            self.close()
            row = self._ask(question)
        if row is None:
            return None
        state, uid, inode = _ROW.unpack_from(row)
        # Where there is no such connection, the kernel shows who listens on the port, or what is left of one. Without
        # an inode it is not yet anybody's, or no longer, and its uid is 0.
        return int(uid) if state == _ESTABLISHED and inode else None

    def close(self) -> None:
        """Be ready to begin anew."""
        if self._socket is not None:
            gone, self._socket = self._socket, None
            gone.close()

    def _ask(self, question: bytes) -> bytes | None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
            self._socket.connect((0, 0))  # from then on nobody but the kernel can send to it
        self._sequence = (self._sequence + 1) % (1 << 32)
        length = _HEADER.size + len(question)
        header = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + question)
        while True:
            answer = self._socket.recv(_ROOM, socket.MSG_DONTWAIT)  # the kernel has answered before `send` returns
            _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            if sequence == self._sequence:  # else it is for a question whose asker was interrupted
                return answer[_HEADER.size :] if kind == _SOCK_DIAG_BY_FAMILY else None


_kernel: Final = _Kernel()
atexit.register(_kernel.close)


def _overflow_uid() -> int:
    """The uid under which the kernel shows those that have none in our user namespace (proc(5))."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except OSError:
        return 65_534


_NOBODY: Final = frozenset({_overflow_uid(), (1 << 32) - 1})
