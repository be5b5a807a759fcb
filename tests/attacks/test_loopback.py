"""Another local user that listens on a loopback address of the service's port, to be taken for it in a browser."""

import errno
import os
import shutil
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest

from shellrunner.config import Address, load
from shellrunner.errors import ShellrunnerError
from shellrunner.service.network import binding
from shellrunner.service.network.binding import Listeners, bound_listeners
from shellrunner.web.security import loopback
from shellrunner.web.security.loopback import BoundAddresses, loopback_addresses
from tests.support.attack import Target, looking, request, running
from tests.support.listening_user import other_user_listening
from tests.support.service import Service

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have processes of other users")
needs_ipv6 = pytest.mark.skipif(not loopback._has_ipv6_loopback(), reason="this machine has no ::1")
LOCALHOST = Address("localhost")
# Each way in which another user may take a part of `localhost`, and the address that the service then cannot have.
SQUATTERS = [
    ("::1", "", "::1"),
    ("::1", "reuse", "::1"),
    ("::1", "reuse device", "::1"),
    ("::", "", "127.0.0.1"),
    ("::", "reuse", "127.0.0.1"),
    ("::", "only reuse", "::1"),
    ("127.0.0.1", "", "127.0.0.1"),
    ("127.0.0.1", "reuse", "127.0.0.1"),
    ("127.0.0.1", "device", "127.0.0.1"),
    ("0.0.0.0", "reuse", "127.0.0.1"),
    ("::ffff:127.0.0.1", "reuse", "127.0.0.1"),
]
each_squatter = pytest.mark.parametrize(("host", "options", "named"), SQUATTERS)


def tcp(listeners: Listeners) -> list[socket.socket]:
    """Return the TCP sockets."""
    return [cast("socket.socket", each) for each in listeners.endpoints]


def free_port() -> int:
    """Return a port that is free on both addresses."""
    with bound_listeners([LOCALHOST]) as listeners:
        return int(tcp(listeners)[0].getsockname()[1])


@as_root
@needs_ipv6
@each_squatter
def test_a1_an_address_that_another_user_has_is_not_started_on(host: str, options: str, named: str) -> None:
    """The error names the address, and no address stays bound."""
    port = free_port()
    with other_user_listening(host, port, options) as state:
        assert state == "listens"
        with pytest.raises(ShellrunnerError) as refusal, bound_listeners([Address("localhost", port)]):
            pass
        assert refusal.value.detail.startswith(f"cannot listen on {named} port {port}: Address already in use. The ")
    with bound_listeners([Address("localhost", port)]) as listeners:
        assert len(tcp(listeners)) == 2


@pytest.mark.heavy
@as_root
@needs_ipv6
def test_a1_nobody_joins_an_address_that_is_served() -> None:
    """While the service listens, no other user can listen on a part of it, in any way."""
    with bound_listeners([LOCALHOST]) as listeners:
        for each in tcp(listeners):
            each.listen()
        port = tcp(listeners)[0].getsockname()[1]
        for host, options, _ in SQUATTERS:
            with other_user_listening(host, port, options) as state:
                assert state == f"OSError {errno.EADDRINUSE}", (host, options)


@as_root
@needs_ipv6
@pytest.mark.asyncio(loop_scope="session")
async def test_a1_the_service_does_not_start(tmp_path: Path) -> None:
    """Its exit code is 1, its message names the address, and it has no history; 127.0.0.1 as a host means both."""
    assert load(None, server={"host": "127.0.0.1"}).server.addresses == [Address("localhost", 8000)]
    port = free_port()
    service = Service(tmp_path / "state")
    service.program = [sys.executable, "-m", "shellrunner", "serve", "--port", str(port)]
    with other_user_listening("::1", port):
        await service.launch()
        assert await service.ended() == 1
    assert f"cannot listen on ::1 port {port}" in str(service.log)
    assert not (tmp_path / "state" / "history.db").exists()
    await service.clear_away()


@needs_ipv6
def test_a1_a_port_that_the_kernel_chooses_is_free_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is taken on ::1, another one is tried, some times; no socket of a failed attempt stays open."""
    before, tried = set(os.listdir("/proc/self/fd")), []
    real = binding._bind

    def bind(host: str, port: int, *, is_optional: bool) -> Any:
        tried.append((host, port))
        if host == "::1" and len(tried) < 2 * failures:
            raise OSError(errno.EADDRINUSE, "taken")
        return real(host, port, is_optional=is_optional)

    monkeypatch.setattr(binding, "_bind", bind)
    failures = 5
    with bound_listeners([LOCALHOST]) as listeners:
        first, second = tcp(listeners)
        assert first.getsockname()[1] == second.getsockname()[1] == tried[-1][1]
    assert len(tried) == 10
    failures = 1000
    with pytest.raises(ShellrunnerError, match="cannot listen on ::1 port"), bound_listeners([LOCALHOST]):
        pass
    assert set(os.listdir("/proc/self/fd")) == before


def test_a1_without_the_protocol_the_name_is_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no IPv6 (ipv6.disable=1) the service starts, and accepts the name: nobody can take ::1."""

    class WithoutIpv6(socket.socket):
        def __init__(self, family: int = -1, *more: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *more, **options)

    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    with bound_listeners([LOCALHOST]) as listeners:
        (only,) = tcp(listeners)
        assert listeners.bound_addresses.cover("localhost", only.getsockname()[1])


@pytest.mark.heavy
@as_root
@pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2")
def test_a1_without_an_ipv6_loopback_address_the_service_starts() -> None:
    """Where lo has no ::1 the service starts, accepts the name, and holds ::1 in case that it appears."""
    program = (
        "from shellrunner.service.network.binding import bound_listeners; from shellrunner.config import Address\n"
        "with bound_listeners([Address('localhost', 8000)]) as found:\n"
        "    hosts = [each.getsockname()[0] for each in found.endpoints]\n"
        "    print(hosts, found.bound_addresses.cover('localhost', 8000))"
    )
    shell = 'echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6; ip link set lo up; exec "$@"'
    command = ["unshare", "--net", "sh", "-c", shell, "sh", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "['127.0.0.1', '::1'] True\n", done.stderr


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("localhost", "127.0.0.1 ::1"),
        ("LOCALHOST.", "127.0.0.1 ::1"),
        ("jobs.localhost", "127.0.0.1 ::1"),
        ("a.b.localhost.", "127.0.0.1 ::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.9.9.9", "127.9.9.9"),
        ("127.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("[::]", "::1"),
        ("[::1]", "::1"),
        ("[0:0::1]", "::1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[::ffff:7f00:2]", "127.0.0.2"),
        ("notlocalhost", ""),
        ("localhost.example.org", ""),
        ("192.0.2.1", ""),
        ("machine", "127.0.1.1"),
        ("MACHINE.local", "127.0.1.1"),
        ("both", "127.0.0.1 ::1"),
        ("remote", ""),
        ("commented", ""),
    ],
)
def test_a1_what_a_name_means(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, meant: str) -> None:
    """`localhost` and all below it mean both addresses, whatever /etc/hosts has; it may only add to other names."""
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "127.0.0.1 localhost both # commented\n127.0.1.1 machine.local Machine\n::1 both\n192.0.2.7 remote\n"
    )
    monkeypatch.setattr(loopback, "_HOSTS_FILE", hosts)
    assert loopback_addresses(host) == {ip_address(each) for each in meant.split()}


@needs_ipv6
@pytest.mark.parametrize(
    ("passed", "accepted"),
    [
        (["127.0.0.1", "::1"], "localhost jobs.localhost 127.0.0.1 [::1]"),
        (["127.0.0.1"], "127.0.0.1"),
        (["::1"], "[::1]"),
        (["0.0.0.0", "::1"], "localhost jobs.localhost 127.0.0.1 127.0.0.2 [::1]"),
        (["0.0.0.0"], "127.0.0.1 127.0.0.2"),
        (["::"], "localhost jobs.localhost 127.0.0.1 127.0.0.2 [::1]"),
        (["::ffff:127.0.0.1"], "127.0.0.1"),
    ],
)
def test_a1_what_passed_sockets_cover(passed: list[str], accepted: str) -> None:
    """Of the sockets that systemd passes their addresses decide which names are accepted."""
    sockets = []
    try:
        port = 0
        for host in passed:
            made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            sockets.append(made)
            made.bind((host, port))
            port = made.getsockname()[1]
        with bound_listeners([LOCALHOST], sockets) as listeners:
            addresses = listeners.bound_addresses
        names = ["localhost", "jobs.localhost", "127.0.0.1", "127.0.0.2", "[::1]"]
        assert [name for name in names if addresses.cover(name, port)] == accepted.split()
        assert not addresses.cover("localhost", port - 1)
    finally:
        for each in sockets:
            each.close()


@as_root
def test_a1_a_socket_of_one_interface_covers_nothing() -> None:
    """On another interface another user could bind the same address."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        port = made.getsockname()[1]
        assert BoundAddresses.from_sockets([made]).cover("127.0.0.1", port)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        assert not BoundAddresses.from_sockets([made]).cover("127.0.0.1", port)


def test_a1_a_wildcard_covers_what_is_listed_beside_it() -> None:
    """`0.0.0.0` and `localhost` at one port can be listed together: 127.0.0.1 is bound once."""
    port = free_port()
    with bound_listeners([Address("0.0.0.0", port), Address("localhost", port)]) as listeners:
        assert [each.getsockname()[0] for each in tcp(listeners)] == ["0.0.0.0", "::1"]
        assert listeners.bound_addresses.cover("localhost", port)


@needs_ipv6
@pytest.mark.asyncio(loop_scope="session")
async def test_a1_a_name_that_is_not_wholly_bound_is_not_accepted(tmp_path: Path) -> None:
    """With 127.0.0.1 alone, `localhost` is neither Host nor Origin, not even for the page, and is not printed."""
    listen = '["127.0.0.1:0"]'
    names = '["localhost", "localhost.", "jobs.localhost", "127.0.0.1", "127.0.0.2", "[::1]", "localhost:1"]'
    async with running(tmp_path, SERVER__LISTEN=listen, SERVER__NAMES=names) as target:
        for host in ("localhost:PORT", "localhost.:PORT", "jobs.localhost:PORT", "[::1]:PORT", "127.0.0.2:PORT"):
            for path in ("/", "/docs/", "/llms.txt", "/api/jobs", "/metrics"):
                assert (await target.ask(looking(path, host=f"Host: {host}"))).short == "421 wrong-host", (host, path)
        assert (await target.ask(looking(host="Host: localhost:1"))).short == "421 wrong-host"
        own = "Host: 127.0.0.1:PORT"
        assert (await target.ask(looking(host=own))).status == 200
        reply = await target.ask(request("POST", "/api/jobs", "Origin: http://localhost:PORT", host=own))
        assert reply.short == "403 cross-site"
        lines = [line for line in target.service.log if "localhost" in str(line)]
        assert [line["event"].partition(":")[0] for line in lines] == ["not accepted in Host"]


@pytest.mark.asyncio(loop_scope="session")
async def test_a1_the_script_of_a_service_worker_is_one_that_removes_it(alone: Target) -> None:
    """Under every name and path, only a request for such a script is answered with its removal."""
    for host in ("localhost:PORT", "evil.test"):
        for path in ("/", "/sw.js", "/api/jobs", "/a/b/c"):
            reply = await alone.ask(looking(path, "Service-Worker: script", host=f"Host: {host}"))
            assert (reply.status, reply.one("Service-Worker-Allowed")) == (200, "/")
            assert reply.one("Clear-Site-Data") == '"cache"'
            assert b"registration.unregister()" in reply.body
    assert (await alone.ask(looking("/sw.js", "Service-Worker: other"))).status == 404
    assert (await alone.ask(request("POST", "/api/none", "Service-Worker: script"))).status == 404
    page = await alone.ask(looking("/"))
    assert "worker-src 'none'" in page.one("Content-Security-Policy")
    assert page.all("Strict-Transport-Security") == []
