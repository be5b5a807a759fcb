"""The process at the other end of a connection, as the kernel reports it: its uid, and whether there still is one.

See unix(7) and sock_diag(7). Used by the security middleware and the connections, on their one thread. Must not know
what the uid allows: what is not certain is None.
"""

import atexit
import socket
import struct
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, Final

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h; none of them is in the standard library.
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2 = 1, 4, 5
_RECEIVING: Final = frozenset({_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2})  # it may have shut down its sending side
_NO_COOKIE: Final = b"\xff" * 8
_NLMSG: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBBxI2s2s16s16sI8s")  # inet_diag_req_v2
_ROW: Final = struct.Struct("=xB62xII")  # inet_diag_msg: only the state, the uid and the inode
_MAX_REPLY: Final = 4096  # bytes; a reply has about 130

_End = tuple[bytes, bytes]  # an address and a port, as the kernel stores them

_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2
_LOOPBACK6: Final = bytes(15) + b"\x01"


def peer_uid(connection: socket.socket) -> int | None:
    """Return the uid of the process at the other end of an accepted connection, or None if it is not certain.

    For a Unix socket that is the process that connected it. For TCP over loopback it is the owner of the connecting
    socket, if the connection is open in both directions both before and after the kernel is asked.
    """
    lookup = _LOOKUPS.get(connection.family)
    try:
        uid = None if lookup is None else lookup(connection)
    except OSError:  # it is closed, not connected, not TCP, or the kernel lacks sock_diag
        return None
    return None if uid in _UNKNOWN_UIDS else uid


def peer_has_left(connection: socket.socket) -> bool | None:
    """Return whether no process can receive what we send; None if that cannot be known: not TCP over loopback.

    A client that has closed its socket and one that has only shut down its sending side send the same.
    """
    try:
        ends = _loopback_ends(connection)
        return None if ends is None else _sock_diag.owner(*ends, _RECEIVING) is None
    except OSError:
        return None


def _unix_peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid: int = struct.unpack("=iII", credentials)[1]
    return uid


def _tcp_peer_uid(connection: socket.socket) -> int | None:
    ends = _loopback_ends(connection)
    if ends is None:
        return None
    uid = _sock_diag.owner(*ends, {_ESTABLISHED})
    # Checked last: while it is still established, no other process can have taken the client's port before the
    # lookup.
    is_established = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED
    return uid if is_established else None


def _loopback_ends(connection: socket.socket) -> tuple[_End, _End] | None:
    """Return the client's and our end of a connection over loopback, else None."""
    ours = _endpoint(connection.family, connection.getsockname())
    theirs = _endpoint(connection.family, connection.getpeername())
    return (theirs, ours) if _is_loopback(ours[0]) and _is_loopback(theirs[0]) else None


_LOOKUPS: Final[dict[int, Callable[[socket.socket], int | None]]] = {
    socket.AF_UNIX: _unix_peer_uid,
    socket.AF_INET: _tcp_peer_uid,
    socket.AF_INET6: _tcp_peer_uid,
}


def _endpoint(family: int, name: Any) -> _End:
    """Return the end with this name, with IPv4-mapped IPv6 addresses as IPv4."""
    return socket.inet_pton(family, name[0]).removeprefix(_MAPPED), name[1].to_bytes(2, "big")


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == _LOOPBACK6


class _SockDiag:
    """A netlink socket that stays open, because opening one costs more than a lookup."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def owner(self, near: _End, far: _End, states: Container[int]) -> int | None:
        """Return the uid that owns the TCP socket at `near` that is connected to `far` in such a state, or None.

        Raises:
            OSError: the kernel does not reply.
        """
        family = socket.AF_INET if len(near[0]) == 4 else socket.AF_INET6
        pair = (near[1], far[1], near[0], far[0], 0, _NO_COOKIE)
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _ESTABLISHED, *pair)
        try:
            row = self._query(request)
        except OSError:  # ENOBUFS: replies were lost; whatever it is, a new socket does not have the problem
            self.close()
            row = self._query(request)
        if row is None:
            return None
        state, uid, inode = _ROW.unpack_from(row)
        # If there is no such connection, the kernel returns the listener on the port, or the remains of a connection.
        # A socket without an inode belongs to no process yet, or no longer, and its uid is 0.
        return int(uid) if state in states and inode else None

    def close(self) -> None:
        """Close the socket; the next lookup opens a new one."""
        if self._socket is not None:
            gone, self._socket = self._socket, None
            gone.close()
            atexit.unregister(self.close)

    def _query(self, request: bytes) -> bytes | None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
            atexit.register(self.close)
            self._socket.connect((0, 0))  # from now on only the kernel can send to it
        self._sequence = (self._sequence + 1) % (1 << 32)
        length = _NLMSG.size + len(request)
        header = _NLMSG.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + request)
        while True:
            reply = self._socket.recv(_MAX_REPLY, socket.MSG_DONTWAIT)  # the kernel has replied before `send` returns
            _, kind, _, sequence, _ = _NLMSG.unpack_from(reply)
            if sequence == self._sequence:  # otherwise it replies to an earlier request that was interrupted
                return reply[_NLMSG.size :] if kind == _SOCK_DIAG_BY_FAMILY else None


_sock_diag: Final = _SockDiag()


def _overflow_uid() -> int:
    """Return the uid that stands for those without one in our user namespace (proc(5))."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except OSError:
        return 65_534


_UNKNOWN_UIDS: Final = frozenset({_overflow_uid(), (1 << 32) - 1})
