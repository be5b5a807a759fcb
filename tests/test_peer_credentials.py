"""The uid of the peer: real sockets, real other users, real races."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shellrunner import peer_credentials
from shellrunner.peer_credentials import ConnectionPeer, NoOwner, SockDiag, peer_uid, server_uid
from tests.support.waiting import WAIT_TIMEOUT

ME = os.geteuid()
OTHER_UID = 54_321  # nobody has this uid, and nobody needs to: the kernel does not mind
NOBODY = 65_534  # as shipped, the uid for those that have none
as_root = pytest.mark.skipif(ME != 0, reason="only root can be another user")

# Imported before the change of user: the other user may not be able to read Python's files.
CLIENT = """
import os, select, socket, struct, sys
uid = int(sys.argv[1])
if uid != os.geteuid():
    os.setuid(uid)
for line in sys.stdin:
    exec(line)
    print(flush=True)
"""


class Client:
    """A process of some user that executes lines of Python; `c` is its socket."""

    def __init__(self, uid: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", CLIENT, str(uid)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def does(self, line: Any) -> None:
        """Let it execute this; return once it is done."""
        self.begins(line)
        assert self._stdout.readline() == "\n", "the client failed"

    def reads(self) -> str:
        """Return the next line that it prints."""
        return self._stdout.readline().strip()

    def begins(self, line: Any) -> None:
        """Let it execute this, without waiting."""
        self._stdin.write(line + "\n")
        self._stdin.flush()

    def connects(self, address: Any, family: Any = socket.AF_INET, source: Any = None) -> None:
        """Let it connect."""
        bound = f"c.bind({source!r}); " if source else ""
        reuse = "c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
        self.does(f"c = socket.socket({int(family)}); {reuse}{bound}c.connect({address!r})")

    def end(self) -> None:
        """Kill it, and close its sockets with it."""
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()


@pytest.fixture
def client() -> Iterator[Any]:
    """Yield a function that makes clients; they end with the test."""
    made = []

    def make(uid: Any) -> Any:
        made.append(Client(uid))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def listener(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Yield a listening socket at the address in the parameter, else at 127.0.0.1."""
    family, host = getattr(request, "param", (socket.AF_INET, "127.0.0.1"))
    with socket.socket(family) as made:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, 0) if host else "")  # unix(7): a Unix socket without a name gets an abstract one
        made.listen(512)
        made.settimeout(WAIT_TIMEOUT)
        yield made


def accept(listener: Any) -> Any:
    """Return the accepted socket."""
    return listener.accept()[0]


MAPPED = "::ffff:127.0.0.1"
TRANSPORTS = [
    pytest.param((socket.AF_UNIX, None), (socket.AF_UNIX, None), id="unix"),
    pytest.param((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.1"), id="ipv4"),
    pytest.param((socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.2"), id="another-loopback"),
    pytest.param((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, MAPPED), id="mapped-to-ipv4"),
    pytest.param((socket.AF_INET6, MAPPED), (socket.AF_INET, "127.0.0.1"), id="ipv4-to-mapped"),
    pytest.param((socket.AF_INET6, MAPPED), (socket.AF_INET6, MAPPED), id="mapped-to-mapped"),
    pytest.param((socket.AF_INET6, "::1"), (socket.AF_INET6, "::1"), id="ipv6"),
]


@pytest.mark.parametrize("uid", [ME, pytest.param(OTHER_UID, marks=as_root)], ids=["own", "other"])
@pytest.mark.parametrize(("listener", "way"), TRANSPORTS, indirect=["listener"])
def test_the_peer_has_its_own_uid(listener: Any, client: Any, way: Any, uid: Any) -> None:
    """Over a Unix socket, IPv4, IPv6 and IPv4-mapped addresses on either side, it is the uid of the client."""
    other, (family, host) = client(uid), way
    address = listener.getsockname()
    other.connects((host, address[1]) if host else address, family)
    with accept(listener) as connection:
        assert peer_uid(connection) == uid
        other.does("c.send(b'POST /api/jobs HTTP/1.1\\r\\n')")
        assert connection.recv(100)
        assert peer_uid(connection) == uid


@as_root
def test_two_clients_have_their_own_uids(listener: Any, client: Any) -> None:
    """Connections of several users to one port each have their own user's uid."""
    clients = {uid: client(uid) for uid in (0, OTHER_UID, OTHER_UID + 1)}
    for uid, other in clients.items():
        other.connects(listener.getsockname())
        with accept(listener) as connection:
            assert peer_uid(connection) == uid


@pytest.mark.parametrize("uid", [ME, pytest.param(OTHER_UID, marks=as_root)], ids=["own", "other"])
@pytest.mark.parametrize(
    "gone", ["c.close()", "c.shutdown(socket.SHUT_WR)", "c.setsockopt(1, 13, struct.pack('ii', 1, 0)); c.close()"],
    ids=["closed", "half-closed", "reset"],
)  # fmt: skip
def test_a_client_that_has_gone_is_nobody(listener: Any, client: Any, uid: Any, gone: str) -> None:
    """A connection that the client closed, half-closed or reset has no uid: its row in the kernel has 0."""
    other = client(uid)
    other.connects(listener.getsockname())
    with accept(listener) as connection:
        other.does(f"c.send(b'POST'); {gone}")
        assert peer_uid(connection) is None


@pytest.mark.parametrize("gone", ["c.close()", "c.shutdown(socket.SHUT_WR)"], ids=["closed", "half-closed"])
def test_a_client_that_has_gone_is_nobody_although_its_end_has_not_arrived(
    listener: Any, client: Any, gone: str
) -> None:
    """A close that waits behind unread bytes leaves no uid, although the connection looks established here."""
    other = client(ME)
    other.connects(listener.getsockname())
    other.does("c.setblocking(False)")
    with accept(listener) as connection:
        other.does("_ = [c.send(bytes(1 << 20)) for _ in iter(lambda: select.select([], [c], [], 0.2)[1], [])]")
        assert peer_uid(connection) == ME
        other.does(gone)
        assert state(connection) == 1
        assert peer_uid(connection) is None


def state(connection: Any) -> Any:
    """Return the state of a TCP socket; 1 is ESTABLISHED."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


@as_root
def test_a_post_that_is_closed_at_once_never_comes_from_root(listener: Any, client: Any) -> None:
    """While the client closes, its uid turns from its own to None, and is never 0."""
    other, seen, rounds, address = client(OTHER_UID), set(), 300, listener.getsockname()
    other.begins(
        f"[(c := socket.socket(), c.connect({address!r}), c.send(b'POST'), c.close()) for _ in range({rounds})]"
    )
    deadline = time.monotonic() + WAIT_TIMEOUT
    for _ in range(rounds):
        with accept(listener) as connection:
            while (uid := peer_uid(connection)) is not None:
                seen.add(uid)
                assert time.monotonic() < deadline
    assert seen <= {OTHER_UID}


@as_root
def test_a_port_that_another_took_over_does_not_lend_its_owner(listener: Any, client: Any) -> None:
    """When root's next client takes over the port of a closed one, the first connection does not become root's."""
    first, second = client(OTHER_UID), client(0)
    source = ("127.0.0.1", free_port())
    first.connects(listener.getsockname(), source=source)
    with accept(listener) as old:
        first.does("c.setsockopt(1, 13, struct.pack('ii', 1, 0)); c.close()")
        second.connects(listener.getsockname(), source=source)
        with accept(listener) as new:
            assert (peer_uid(old), peer_uid(new)) == (None, 0)


@as_root
def test_a_port_that_is_taken_over_while_the_kernel_is_asked_does_not_lend_its_owner(
    listener: Any, client: Any
) -> None:
    """A port that root takes over between two steps of the lookup does not make the connection root's."""
    first, second = client(OTHER_UID), client(0)
    source = ("127.0.0.1", free_port())
    first.connects(listener.getsockname(), source=source)

    class Raced(socket.socket):
        def getpeername(self) -> Any:
            name = super().getpeername()
            first.does("c.setsockopt(1, 13, struct.pack('ii', 1, 0)); c.close()")
            second.connects(listener.getsockname(), source=source)
            return name

    with Raced(fileno=accept(listener).detach()) as old:
        assert peer_uid(old) is None
        with accept(listener) as new:
            assert peer_uid(new) == 0


@pytest.mark.parametrize(("listener", "way"), TRANSPORTS, indirect=["listener"])
def test_the_kernel_is_asked_once_for_a_connection(listener: Any, client: Any, way: Any) -> None:
    """However often it is asked for, the uid of a connection's peer costs one lookup."""
    other, (family, host) = client(ME), way
    address, kernel = listener.getsockname(), peer_credentials._sock_diag
    other.connects((host, address[1]) if host else address, family)
    with accept(listener) as connection:
        peer, before = ConnectionPeer(connection), kernel._sequence
        assert {peer.uid() for _ in range(100)} == {ME}
        assert kernel._sequence - before == (family != socket.AF_UNIX)


def test_what_the_kernel_cannot_say_is_asked_again(listener: Any) -> None:
    """Before a connection is accepted its peer is nobody, and afterwards the process that accepted it."""
    with socket.create_connection(listener.getsockname()) as ours:
        peer = ConnectionPeer(ours)
        assert peer.uid() is None
        with accept(listener):
            assert peer.uid() == ME


@pytest.mark.parametrize(
    "gone", ["c.close()", "c.shutdown(socket.SHUT_WR)", "c.setsockopt(1, 13, struct.pack('ii', 1, 0)); c.close()"],
    ids=["closed", "half-closed", "reset"],
)  # fmt: skip
def test_a_known_client_that_has_gone_is_nobody(listener: Any, client: Any, gone: str) -> None:
    """What is known of a connection counts only while that is open in both directions."""
    other = client(ME)
    other.connects(listener.getsockname())
    with accept(listener) as connection:
        peer = ConnectionPeer(connection)
        assert peer.uid() == ME
        other.does(gone)
        assert peer.uid() is None
    assert peer.uid() is None


@as_root
def test_a_known_client_is_not_who_takes_over_its_port(listener: Any, client: Any) -> None:
    """Another user's process at the same address has a connection of its own, on which it has its own uid."""
    first, second = client(0), client(OTHER_UID)
    source = ("127.0.0.1", free_port())
    first.connects(listener.getsockname(), source=source)
    with accept(listener) as connection:
        old = ConnectionPeer(connection)
        assert old.uid() == 0
        first.does("c.setsockopt(1, 13, struct.pack('ii', 1, 0)); c.close()")
        second.connects(listener.getsockname(), source=source)
        with accept(listener) as another:
            assert (old.uid(), ConnectionPeer(another).uid()) == (None, OTHER_UID)


@as_root
def test_nobody_takes_over_the_port_of_a_client_that_seems_to_be_there(listener: Any, client: Any) -> None:
    """While a client's close waits behind unread bytes, no other process reaches the server from its address."""
    first, second = client(0), client(OTHER_UID)
    source, address = ("127.0.0.1", free_port()), listener.getsockname()
    first.connects(address, source=source)
    first.does("c.setblocking(False)")
    with accept(listener) as connection:
        peer = ConnectionPeer(connection)
        assert peer.uid() == 0
        first.does("_ = [c.send(bytes(1 << 20)) for _ in iter(lambda: select.select([], [c], [], 0.2)[1], [])]")
        first.does("c.close()")
        assert (state(connection), peer.uid()) == (1, 0)
        second.does(f"c = socket.socket(); c.setsockopt(1, 2, 1); c.bind({source!r})")
        second.begins(f"print(c.connect_ex({address!r}))")
        assert int(second.reads()) == errno.EADDRNOTAVAIL


@as_root
def test_only_root_changes_the_owner_of_a_socket(listener: Any, client: Any) -> None:
    """No user takes or gives away a socket's owner; if root does, a connection keeps the one that was asked for."""
    other, root = client(OTHER_UID), client(0)
    attempt = """
for uid in (0, os.geteuid() + 1):
    try:
        os.fchown(c.fileno(), uid, -1)
    except PermissionError:
        print("refused")
"""
    other.connects(listener.getsockname())
    with accept(listener) as connection:
        other.begins(f"exec({attempt!r})")
        assert [other.reads(), other.reads()] == ["refused", "refused"]
        assert peer_uid(connection) == OTHER_UID
    root.connects(listener.getsockname())
    with accept(listener) as connection:
        peer = ConnectionPeer(connection)
        assert peer.uid() == 0
        root.does(f"os.fchown(c.fileno(), {OTHER_UID}, -1)")
        assert (peer.uid(), peer_uid(connection), ConnectionPeer(connection).uid()) == (0, OTHER_UID, OTHER_UID)


def free_port() -> Any:
    """Return a port that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@as_root
@pytest.mark.parametrize(("listener", "way"), [TRANSPORTS[0], TRANSPORTS[1]], indirect=["listener"])
def test_the_overflow_uid_is_nobody(listener: Any, client: Any, way: Any) -> None:
    """The uid that stands for those without one in our user namespace counts as unknown."""
    client_of_nobody = client(NOBODY)
    client_of_nobody.connects(listener.getsockname(), way[0])
    with accept(listener) as connection:
        assert peer_uid(connection) is None


def test_a_peer_that_is_not_on_loopback_is_nobody(listener: Any, client: Any) -> None:
    """A peer on another address of this machine counts as a remote one."""
    outside = outside_address()
    client(ME).connects(listener.getsockname(), source=(outside, 0))
    with accept(listener) as connection:
        assert connection.getpeername()[0] == outside
        assert peer_uid(connection) is None


def test_a_connection_before_accept_is_nobody(listener: Any) -> None:
    """A connection that waits to be accepted has uid 0 in the kernel, which counts as unknown."""
    with socket.create_connection(listener.getsockname()) as ours:
        assert peer_uid(ours) is None
        with accept(listener):
            assert peer_uid(ours) == ME


def test_a_socket_without_a_peer_is_nobody(listener: Any) -> None:
    """Closed, unconnected, listening, datagram sockets and other families have no uid, and raise nothing."""
    closed = socket.socket()
    closed.close()
    with (
        socket.socket() as unconnected,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as netlink,
    ):
        datagrams.connect(("127.0.0.1", 9))
        odd = [closed, unconnected, listener, datagrams, unix, netlink]
        assert [peer_uid(each) for each in odd] == [None] * len(odd)


async def test_the_socket_of_a_transport_works() -> None:
    """The socket that a transport returns works as the socket itself, before and after it is closed."""
    answers: asyncio.Queue[Any] = asyncio.Queue()

    async def serve(_: Any, writer: Any) -> None:
        connection = writer.get_extra_info("socket")
        answers.put_nowait(peer_uid(connection))
        writer.close()
        await writer.wait_closed()
        answers.put_nowait(peer_uid(connection))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await answers.get() == ME
        assert await answers.get() is None
        writer.close()


@pytest.fixture
def connection(listener: Any) -> Iterator[Any]:
    """Yield a connection of this process to itself."""
    with socket.create_connection(listener.getsockname()), accept(listener) as accepted:
        assert peer_uid(accepted) == ME
        yield accepted


def test_a_stale_reply_is_skipped(connection: Any) -> None:
    """Unread replies to earlier requests, or errors, are skipped."""
    kernel = peer_credentials._sock_diag._socket
    assert kernel is not None
    for port in (connection.getpeername()[1], 1):
        end = (socket.inet_aton("127.0.0.1"), port.to_bytes(2, "big"))
        pair = (end[1], b"\0\1", end[0], end[0], 0, peer_credentials._NO_COOKIE)
        request = peer_credentials._REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 2, *pair)
        kernel.send(peer_credentials._NLMSG.pack(16 + len(request), 20, 1, 0xABCDEF, 0) + request)
    assert peer_uid(connection) == ME
    with pytest.raises(BlockingIOError):
        kernel.recv(1, socket.MSG_DONTWAIT)


def test_lost_replies_are_requested_again(connection: Any) -> None:
    """After an overflow or a close of the netlink socket a new one is opened, and the uid is right."""
    kernel = peer_credentials._sock_diag._socket
    assert kernel is not None
    junk = struct.pack("=IHHII", 16, 0xFFF0, 5, 1, 0)  # the kernel acknowledges what it does not know
    for _ in range(2_000):
        kernel.send(junk)
    assert peer_uid(connection) == ME
    assert kernel.fileno() == -1, "it did not overflow"
    another = peer_credentials._sock_diag._socket
    assert another is not None
    os.close(another.detach())
    assert peer_uid(connection) == ME


def test_lookups_leave_nothing_open(connection: Any) -> None:
    """A thousand lookups leave no descriptor open."""
    before = os.listdir("/proc/self/fd")
    assert {peer_uid(connection) for _ in range(1_000)} == {ME}
    assert os.listdir("/proc/self/fd") == before


# Whose the server is, as its client asks ------------------------------------------------------------------------


@pytest.fixture
def kernel() -> Iterator[SockDiag]:
    """Yield a netlink socket of a client."""
    with contextlib.closing(SockDiag()) as made:
        yield made


@pytest.mark.parametrize(("listener", "way"), TRANSPORTS[1:], indirect=["listener"])
def test_a_server_owns_a_connection_once_it_has_accepted_it(listener: Any, way: Any, kernel: SockDiag) -> None:
    """A connection has no owner while it waits, then the process that accepted it, and none once that closed it."""
    family, host = way
    with socket.socket(family) as ours:
        ours.connect((host, listener.getsockname()[1]))
        assert server_uid(ours, kernel) is NoOwner.WAITING
        with accept(listener) as theirs:
            assert server_uid(ours, kernel) == ME
            theirs.shutdown(socket.SHUT_WR)
            assert server_uid(ours, kernel) is NoOwner.CLOSED
        assert server_uid(ours, kernel) is NoOwner.CLOSED
    assert server_uid(ours, kernel) is NoOwner.CLOSED


@as_root
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "another"])
def test_a_server_has_the_uid_of_who_accepts(client: Any, kernel: SockDiag, host: str) -> None:
    """It is the accepting process's own, also at another address of this machine."""
    if host == "another":
        host = outside_address()
    family, other = socket.AF_INET6 if ":" in host else socket.AF_INET, client(OTHER_UID)
    other.does(f"s = socket.socket({int(family)}); s.bind(({host!r}, 0)); s.listen()")
    other.begins("print(s.getsockname()[1], flush=True); c = s.accept()[0]")
    with socket.socket(family) as ours:
        ours.connect((host, int(other.reads())))
        other.reads()
        assert server_uid(ours, kernel) == OTHER_UID
        other.does("c.send(bytes(100)); c.close()")
        assert server_uid(ours, kernel) is NoOwner.CLOSED, "a row without an owner has uid 0, or its last one"


@as_root
def test_a_server_that_closes_behind_unread_bytes_is_nobody(client: Any, kernel: SockDiag) -> None:
    """While its end waits behind unread bytes, our side looks established, but the connection has no owner."""
    other = client(OTHER_UID)
    other.does("s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()")
    other.begins("print(s.getsockname()[1], flush=True); c = s.accept()[0]; c.setblocking(False)")
    with socket.create_connection(("127.0.0.1", int(other.reads()))) as ours:
        other.reads()
        other.does("_ = [c.send(bytes(1 << 20)) for _ in iter(lambda: select.select([], [c], [], 0.2)[1], [])]")
        assert server_uid(ours, kernel) == OTHER_UID
        other.does("c.close()")
        assert state(ours) == 1
        assert server_uid(ours, kernel) is NoOwner.CLOSED


def test_a_server_that_the_kernel_does_not_know_is_nobody(listener: Any) -> None:
    """Without a row, or with that of the listener only, or where netlink is forbidden, the owner is not known."""

    class NoRow(SockDiag):
        def row(self, near: Any, far: Any) -> Any:
            return super().row((near[0], b"\0\1"), far)

    class Listener(SockDiag):
        def row(self, near: Any, far: Any) -> Any:
            return super().row(near, (far[0], b"\0\1"))

    class Forbidden(SockDiag):
        def row(self, near: Any, far: Any) -> Any:
            raise PermissionError

    with socket.create_connection(listener.getsockname()) as ours, accept(listener):
        for kind in (NoRow, Listener, Forbidden):
            with contextlib.closing(kind()) as kernel:
                assert server_uid(ours, kernel) is NoOwner.UNKNOWN


def outside_address() -> str:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but finds the address it would be sent from
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])
