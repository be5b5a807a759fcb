"""The process at the other end of a connection, as the kernel reports it: its uid, and whether there still is one.

See unix(7) and sock_diag(7). The server asks about its clients, on its one thread; a client about its server. Must
not know what the uid allows: what is not certain is None, or a reason.
"""

import atexit
import enum
import functools
import socket
import struct
import sys
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, Final, NamedTuple

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h; none of them is in the standard library.
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_ESTABLISHED, _SYN_RECV, _FIN_WAIT1, _FIN_WAIT2, _LISTEN = 1, 3, 4, 5, 10
_RECEIVING: Final = frozenset({_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2})  # it may have shut down its sending side
_NO_COOKIE: Final = b"\xff" * 8
_NLMSG: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBBxI2s2s16s16sI8s")  # inet_diag_req_v2
_ROW: Final = struct.Struct("=xB62xII")  # inet_diag_msg: only the state, the uid and the inode
_UCRED: Final = struct.Struct("=iII")  # unix(7)
_MAX_REPLY: Final = 4096  # bytes; a reply has about 130

_End = tuple[bytes, bytes]  # an address and a port, as the kernel stores them

_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2
_LOOPBACK6: Final = bytes(15) + b"\x01"
_IS_LINUX: Final = sys.platform == "linux"


class UnixPeer(NamedTuple):
    """The process at the other end of a Unix socket, when it was connected."""

    pid: int
    uid: int
    gid: int


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
    return None if uid is None or is_ambiguous(uid) else uid


class ConnectionPeer:
    """The process at the other end of one accepted connection; the kernel is asked for its uid once.

    An accepted socket has the same other end for as long as it exists, even if the client's address is taken over:
    that makes a new connection here. What the kernel says of the other end is the uid with which that was made, and
    changes only by fchown(2), which needs CAP_CHOWN: its holder may become any user anyway. A process that inherits
    the client's socket, or is passed it, has the uid of its maker at every request, whether the kernel is asked again
    or not. So the answer stays, if it is certain; any other is not kept. That the connection is still open in both
    directions is checked each time, as in `peer_uid`.
    """

    __slots__ = ("_socket", "_uid", "is_unix")

    def __init__(self, connection: socket.socket) -> None:
        """Take an accepted socket; `is_unix` is whether it is a Unix socket."""
        self._socket = connection
        self._uid: int | None = None
        self.is_unix = connection.family == socket.AF_UNIX

    def uid(self) -> int | None:
        """Return the uid, as `peer_uid` does."""
        if self._uid is None:
            self._uid = peer_uid(self._socket)
            return self._uid
        try:
            is_open = self.is_unix or _is_established(self._socket)
        except OSError:
            return None
        return self._uid if is_open else None


def peer_has_left(connection: socket.socket) -> bool | None:
    """Return whether no process can receive what we send; None if that cannot be known: not TCP over loopback.

    A client that has closed its socket and one that has only shut down its sending side send the same.
    """
    try:
        ends = _loopback_ends(connection)
        return None if ends is None else _sock_diag.owner(*ends, _RECEIVING) is None
    except OSError:
        return None


def is_loopback(connection: socket.socket) -> bool:
    """Return whether the other end of a connection over IP is within this machine, by its address."""
    try:
        return connection.family != socket.AF_UNIX and _is_loopback(_ends(connection)[1][0])
    except OSError:
        return False


class NoOwner(enum.Enum):
    """Why no process owns the other end of a connection that we made."""

    WAITING = "no process has accepted it yet"
    CLOSED = "it is closed"
    UNKNOWN = "the kernel cannot say"
    REMOTE = "it leads to another machine"


def server_uid(connection: socket.socket, kernel: "SockDiag") -> int | NoOwner:
    """Return the uid of the process that accepted a connection of ours, or why there is none.

    For a Unix socket that is the process that listens, or the one that did so for it: root with systemd's socket
    units. The uid may be ambiguous: see `is_ambiguous`.
    """
    try:
        if connection.family == socket.AF_UNIX:
            return _unix_peer_uid(connection) if _IS_LINUX else NoOwner.UNKNOWN
        ours, theirs = _ends(connection)
    except OSError:
        return NoOwner.CLOSED
    is_loopback = _is_loopback(theirs[0])
    if not is_loopback and ours[0] != theirs[0]:  # the kernel chooses the same address for both ends within a machine
        return NoOwner.REMOTE
    owner = _accepting_uid(connection, theirs, ours, kernel) if _IS_LINUX else NoOwner.UNKNOWN
    # From our other addresses a container's rules may lead elsewhere, as no user can do.
    return NoOwner.REMOTE if owner is NoOwner.UNKNOWN and not is_loopback else owner


def _accepting_uid(connection: socket.socket, theirs: "_End", ours: "_End", kernel: "SockDiag") -> int | NoOwner:
    try:
        row = kernel.row(theirs, ours)
        # Checked last: while our end is established, its other end is the same as before the lookup.
        if not _is_established(connection):
            return NoOwner.CLOSED
    except OSError:  # the kernel lacks sock_diag, or a sandbox forbids it
        return NoOwner.UNKNOWN
    if row is None or row.state == _LISTEN:  # another network namespace, or SYN cookies just before the last ACK
        return NoOwner.UNKNOWN
    if row.state not in {_ESTABLISHED, _SYN_RECV}:
        return NoOwner.CLOSED
    # In the queue of connections to accept, its uid is 0, or the listener's.
    return row.uid if row.inode and row.state == _ESTABLISHED else NoOwner.WAITING


def unix_peer(connection: socket.socket) -> UnixPeer:
    """Return the process that connected a Unix socket; its pid may be another's by now.

    Raises:
        OSError: it is closed.
    """
    return UnixPeer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def _unix_peer_uid(connection: socket.socket) -> int:
    return unix_peer(connection).uid


def _tcp_peer_uid(connection: socket.socket) -> int | None:
    ends = _loopback_ends(connection)
    if ends is None:
        return None
    uid = _sock_diag.owner(*ends, {_ESTABLISHED})
    # Checked last: while it is still established, no other process can have taken the client's port before the
    # lookup.
    return uid if _is_established(connection) else None


def _is_established(connection: socket.socket) -> bool:
    """Return whether a TCP connection is open in both directions, as far as this end knows.

    Raises:
        OSError: the socket is closed.
    """
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED


def _loopback_ends(connection: socket.socket) -> tuple[_End, _End] | None:
    """Return the client's and our end of a connection over loopback, else None."""
    ours, theirs = _ends(connection)
    return (theirs, ours) if _is_loopback(ours[0]) and _is_loopback(theirs[0]) else None


def _ends(connection: socket.socket) -> tuple[_End, _End]:
    """Return our end and the other end of a connection over IP."""
    family = connection.family
    return _endpoint(family, connection.getsockname()), _endpoint(family, connection.getpeername())


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


class _Row(NamedTuple):
    state: int
    uid: int
    inode: int


class SockDiag:
    """A netlink socket that stays open, because opening one costs more than a lookup."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def owner(self, near: _End, far: _End, states: Container[int]) -> int | None:
        """Return the uid that owns the TCP socket at `near` that is connected to `far` in such a state, or None.

        Raises:
            OSError: the kernel does not reply.
        """
        row = self.row(near, far)
        # A socket without an inode belongs to no process yet, or no longer, and its uid is 0.
        return row.uid if row is not None and row.state in states and row.inode else None

    def row(self, near: _End, far: _End) -> _Row | None:
        """Return the kernel's row of the TCP socket at `near` that is connected to `far`.

        If there is no such connection, that of the listener on the port, or of the remains of a connection, or None.

        Raises:
            OSError: the kernel does not reply.
        """
        family = socket.AF_INET if len(near[0]) == 4 else socket.AF_INET6
        pair = (near[1], far[1], near[0], far[0], 0, _NO_COOKIE)
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _ESTABLISHED, *pair)
        try:
            reply = self._query(request)
        except OSError:  # ENOBUFS: replies were lost; whatever it is, a new socket does not have the problem
            self.close()
            reply = self._query(request)
        return None if reply is None else _Row(*_ROW.unpack_from(reply))

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


_sock_diag: Final = SockDiag()


def is_ambiguous(uid: int) -> bool:
    """Return whether a uid stands for everybody without one in our user namespace, or for none (proc(5))."""
    return uid in _ambiguous_uids()


@functools.cache
def _ambiguous_uids() -> frozenset[int]:
    try:
        overflow_uid = int(Path("/proc/sys/kernel/overflowuid").read_text())
    except OSError:
        overflow_uid = 65_534
    return frozenset({overflow_uid, (1 << 32) - 1})
