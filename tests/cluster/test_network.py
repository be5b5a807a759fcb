"""The cables of the cluster under test: a cut drops packets without a sign, in the direction that is asked for."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.cluster import network
from tests.cluster.network import Cable, Direction
from tests.support import postgres

pytestmark = pytest.mark.skipif(not network.available(), reason="needs root, who makes network namespaces")

# Answers each line with the number of lines so far, and says on its standard output which it got.
_COUNTS = """
import socket, sys
with socket.create_server(("0.0.0.0", 4000)) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    for number, line in enumerate(connection.makefile("rb"), 1):
        print("got", number, flush=True)
        connection.sendall(b"%d\\n" % number)
"""


@contextmanager
def counting(cable: Cable) -> Iterator["subprocess.Popen[str]"]:
    """Run the program on a host."""
    command = [*cable.host.prefix, sys.executable, "-c", _COUNTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield process
        finally:
            process.kill()


@pytest.mark.heavy
@pytest.mark.parametrize(("direction", "arrives"), [("both", False), ("to_host", False), ("from_host", True)])
def test_a_cut_drops_what_one_direction_carries(direction: Direction, arrives: bool) -> None:
    """The connection stays open, and goes on after the cable was healed."""
    with network.connected(["one"]) as cables, counting(cables["one"]) as process:
        stdout = process.stdout
        assert stdout is not None
        with socket.create_connection((cables["one"].address, 4000), timeout=10) as connection:
            answers = connection.makefile("rb")
            connection.sendall(b"x\n")
            assert answers.readline() == b"1\n"
            assert stdout.readline() == "got 1\n"
            cables["one"].cut(direction)
            connection.sendall(b"x\n")
            if arrives:
                assert stdout.readline() == "got 2\n"
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(10)
            cables["one"].heal()
            assert connection.recv(2) == b"2\n"


@pytest.mark.heavy
def test_hosts_reach_postgresql_and_not_the_world() -> None:
    """Each host connects to the one database in the hub; no interface leads elsewhere."""
    program = "import psycopg, sys; print(psycopg.connect(sys.argv[1]).execute('SELECT 42').fetchone()[0])"
    with network.connected(["one", "two"]) as cables, postgres.server(postgres.UNSAFE, listen=network.HUB) as server:
        for cable in cables.values():
            command = [*cable.host.prefix, sys.executable, "-c", program, server.url(tcp=True)]
            assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"42\n"
        with psycopg.connect(server.url(tcp=True)) as db:
            assert db.execute("SELECT host(inet_server_addr())").fetchone() == (network.HUB,)
        with pytest.raises(OSError, match="unreachable"):
            socket.create_connection(("192.0.2.1", 80), timeout=1)
    names = [name for _, name in socket.if_nameindex()]
    assert not any(name.startswith("host") for name in names), names
