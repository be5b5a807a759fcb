"""How the service listens: Unix socket files, several addresses, sockets that systemd passes, TLS."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shellrunner.config import load
from shellrunner.errors import ConfigError, ShellrunnerError
from shellrunner.service.network import unix_socket
from shellrunner.service.network.binding import bound_listeners
from shellrunner.service.network.listening import listening
from shellrunner.service.network.tls import Certificate
from shellrunner.web.http.connections import CONNECTIONS, ConnectionLimits, Connections
from tests.support.selected_service import new_service
from tests.support.service import Service
from tests.support.tokens import hash_of
from tests.support.waiting import WAIT_TIMEOUT, until

SERVE = [sys.executable, "-m", "shellrunner", "serve"]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Any]:
    """Yield a function that makes services with given listen addresses; they are removed afterwards."""
    made = []

    def make(name: str = "state", **settings: Any) -> Any:
        service = new_service(tmp_path / name, **settings)
        service.program = SERVE
        made.append(service)
        return service

    yield make
    for service in made:
        await service.clear_away()


async def refused(service: Service) -> tuple[Any, ...]:
    """Start it, which must fail; return its exit status and its message."""
    with pytest.raises(AssertionError, match="it did not start"):
        await service.start()
    status = await service.ended()
    return status, "\n".join(entry.get("line", "").rstrip("\n") for entry in service.log)


async def urls(service: Service) -> Any:
    """Return the URLs that it logs."""
    return next(entry["urls"] for entry in service.log if entry["event"] == "listening")


async def health(url: Any, **options: Any) -> Any:
    """Ask for /healthz on a new connection; return the status."""
    connector = aiohttp.UnixConnector(path=url.removeprefix("unix:")) if url.startswith("unix:") else None
    base = "http://localhost" if connector else url
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"{base}/healthz", **options) as got,
    ):
        return got.status


# A bare app in the test's own process


async def healthy(_: Any) -> Any:
    """Return an app that is healthy."""
    return web.Response()


@contextlib.asynccontextmanager
async def served(**server: Any) -> AsyncIterator[tuple[Any, ...]]:
    """Yield the certificate and port of a bare app; `server` is that table of the settings."""
    app = web.Application()
    app[CONNECTIONS] = Connections(ConnectionLimits())
    app.router.add_get("/healthz", healthy)
    settings = load(None, server={"port": 0, **server})
    certificate = Certificate.from_settings(settings.server)
    with bound_listeners(settings.server.addresses) as listeners:
        async with listening(app, listeners, 0o600, certificate) as (url, *_):
            yield certificate, int(url.rpartition(":")[2])


async def words_of(listen: Any) -> Any:
    """Return the reason why it cannot listen there."""
    with pytest.raises(ShellrunnerError) as refusal:
        async with served(listen=[listen]):
            pass
    return refusal.value.detail


# Unix socket files


async def test_a_job_goes_in_and_comes_out_by_a_unix_socket(make: Any, tmp_path: Path) -> None:
    """A job is submitted and fetched through a Unix socket, which by default is for its user only."""
    service = await make(SERVER__LISTEN=f"unix:{tmp_path}/front").start()
    assert await urls(service) == [f"unix:{tmp_path}/front"]
    assert stat.S_IMODE(os.lstat(tmp_path / "front").st_mode) == 0o600
    await service.session.close()
    service.session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=f"{tmp_path}/front"))
    service.url = "http://localhost"
    assert (await service.run("echo привет"))["stdout"] == "привет\n"


@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_socket_file_is_at_no_moment_more_open_than_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, umask: int
) -> None:
    """With any umask a socket file has at most its mode when it is bound, and then exactly its mode."""
    before = []

    def chmod(path: Any, wanted: Any) -> None:
        before.append(stat.S_IMODE(os.lstat(path).st_mode))
        os.chmod(path, wanted)

    monkeypatch.setattr(unix_socket, "os", type("Os", (), {**vars(os), "chmod": staticmethod(chmod)}))
    usual = os.umask(umask)
    try:
        with unix_socket.bound(str(tmp_path / "front"), mode):
            assert stat.S_IMODE(os.lstat(tmp_path / "front").st_mode) == mode
    finally:
        os.umask(usual)
    assert before == [mode & ~umask]


@pytest.mark.heavy
async def test_a_socket_file_goes_with_the_service_or_with_the_next_one(make: Any, tmp_path: Path) -> None:
    """Stopped, it is removed; killed, it is left, and does not hinder the next start."""
    service = await make(SERVER__LISTEN=f"unix:{tmp_path}/front", SERVER__SOCKET_MODE="0660").start()
    await service.kill()
    assert stat.S_IMODE(os.lstat(tmp_path / "front").st_mode) == 0o660
    await service.start()
    assert await health(f"unix:{tmp_path}/front") == 200
    assert await service.stop() == 0
    assert not os.path.lexists(tmp_path / "front")


async def test_a_socket_file_on_which_somebody_listens_is_left_to_them(tmp_path: Path) -> None:
    """Rejected with a reason, also while the other listener is too busy to accept, and the file stays."""
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(tmp_path / "front"))
        busy.listen(0)
        for _ in range(2):
            assert (
                await words_of(f"unix:{tmp_path}/front")
                == f"cannot listen on {tmp_path}/front: another process listens there"
            )
    assert os.path.lexists(tmp_path / "front")


async def test_a_path_that_cannot_be_listened_on_is_refused_with_a_message(tmp_path: Path) -> None:
    """Another file at the path, which is left unchanged, or a missing directory is refused with a message."""
    (tmp_path / "front").write_text("mine")
    words = f"cannot listen on {tmp_path}/front: the file there is not a socket"
    assert await words_of(f"unix:{tmp_path}/front") == words
    assert (tmp_path / "front").read_text() == "mine"
    words = f"cannot listen on {tmp_path}/no/front: No such file or directory"
    assert await words_of(f"unix:{tmp_path}/no/front") == words


def test_a_socket_file_that_is_somebody_elses_by_now_is_not_removed(tmp_path: Path) -> None:
    """A file that replaced the socket while it was served is not removed."""
    path = str(tmp_path / "front")
    with unix_socket.bound(path, 0o600):
        os.rename(path, f"{path}.old")
        with open(path, "w") as other:
            other.write("theirs")
    assert (tmp_path / "front").read_text() == "theirs"


# Several addresses


async def test_every_address_is_served(make: Any, tmp_path: Path) -> None:
    """IPv4, IPv6 and two Unix sockets at once, each with its URL in the log, in the order of the settings."""
    listen = ["127.0.0.1:0", f"unix:{tmp_path}/one", "[::1]:0", f"unix:{tmp_path}/two"]
    service = await make(SERVER__LISTEN=json.dumps(listen)).start()
    reached = await urls(service)
    assert [url.rpartition(":")[0] for url in reached] == ["http://127.0.0.1", "unix", "http://[::1]", "unix"]
    assert [await health(url) for url in reached] == [200] * 4


async def test_one_address_that_is_taken_ends_the_start_and_leaves_nothing(make: Any, tmp_path: Path) -> None:
    """Exit code 1, and the error names the address; the socket file of the other is gone."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = json.dumps([f"unix:{tmp_path}/front", f"127.0.0.1:{port}"])
        status, words = await refused(make(SERVER__LISTEN=listen))
    assert (status, words) == (1, f"cannot listen on 127.0.0.1 port {port}: Address already in use")
    assert not os.path.lexists(tmp_path / "front")


@pytest.mark.heavy
async def test_the_command_lines_addresses_override_all_others(make: Any, tmp_path: Path) -> None:
    """--listen, repeated, goes before the configuration's `listen`, and so does --port."""
    service = make(SERVER__LISTEN=f"unix:{tmp_path}/configured")
    service.program = [*SERVE, "--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path}/front"]
    await service.start()
    assert [url.rpartition(":")[0] for url in await urls(service)] == ["http://127.0.0.1", "unix"]
    await service.stop()
    service.program, service.log = [*SERVE, "--port", "0"], []
    await service.start()
    reached = await urls(service)
    assert [url.rpartition(":")[0] for url in reached] == ["http://127.0.0.1", "http://[::1]"]
    assert len({url.rpartition(":")[2] for url in reached}) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--listen", "unix:front"],
            "--listen: server.listen.0: must be unix:PATH with an absolute path",
        ),
        (["--listen", "0.0.0.0:80"], "--listen: server.listen: must be localhost, a loopback address or a Unix sock"),
        (["--listen", "127.0.0.1:1", "--port", "2"], "Error: --listen cannot be combined with --host or --port"),
    ],
)
async def test_an_invalid_listen_is_refused(make: Any, arguments: list[str], words: str) -> None:
    """The exit code is 2, and the message names the option."""
    service = make()
    service.program = [*SERVE, *arguments]
    status, message = await refused(service)
    assert status == 2
    assert message.splitlines()[-1].startswith(words)
    assert not service.state_dir.exists()


# Sockets that systemd passes

# As systemd does: the descriptors are 3, 4, …, and the variables name this very process. The first argument has the
# variables; in it `PID` stands for the pid.
ACTIVATE = """
import os, sys
environment, count, *words = sys.argv[1:]
given, command = words[: int(count)], words[int(count):]
spare = [os.dup2(int(fd), 100 + n) for n, fd in enumerate(given)]
for n, fd in enumerate(spare):
    os.dup2(fd, 3 + n)
os.closerange(3 + len(spare), 200)
os.environ |= (pair.split("=") for pair in environment.replace("PID=PID", f"PID={os.getpid()}").split())
os.execv(command[0], command)
"""


def activation(command: Any, passed: Any, environment: Any = None) -> list[Any]:
    """Return the words that start a command with these sockets."""
    fds = [str(each.fileno()) for each in passed]
    environment = (
        environment or f"LISTEN_PID=PID LISTEN_FDS={len(fds)} LISTEN_FDNAMES={':'.join('front' for _ in fds)}"
    )
    return [sys.executable, "-c", ACTIVATE, environment, str(len(fds)), *fds, *command]


def activated(service: Service, *passed: Any) -> Any:
    """Have the service started with these sockets."""
    service.program = activation(SERVE, passed)
    service.passed = [each.fileno() for each in passed]
    return service


TAKE = """
import os
from shellrunner.errors import ConfigError
from shellrunner.systemd.sockets import passed_sockets
try:
    print([(each.fileno(), each.getsockname()[1], each.get_inheritable()) for each in passed_sockets()])
except ConfigError as error:
    print(error)
print([name for name in os.environ if name.startswith("LISTEN_")])
"""


def taken(*passed: Any, environment: Any = None) -> Any:
    """Return the sockets that a process takes of those that it was started with, and the variables that are left."""
    command = activation([sys.executable, "-c", TAKE], passed, environment)
    fds = [each.fileno() for each in passed]
    return subprocess.run(command, pass_fds=fds, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.fixture
def held() -> Iterator[Any]:
    """Yield a TCP socket that is listened on outside of the service."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener


@pytest.mark.heavy
async def test_a_passed_socket_replaces_the_settings(make: Any, held: Any, tmp_path: Path) -> None:
    """The service is at the socket's address, not at `listen`, and no command inherits the variables."""
    service = activated(make(SERVER__LISTEN=f"unix:{tmp_path}/front"), held)
    await service.start()
    assert await urls(service) == [f"http://127.0.0.1:{held.getsockname()[1]}"]
    assert not os.path.lexists(tmp_path / "front")
    assert "LISTEN_" not in (await service.run("env"))["stdout"]


@pytest.mark.heavy
async def test_a_passed_socket_is_held_by_nobody_but_the_service(make: Any, held: Any) -> None:
    """Neither the fork server nor a keeper nor a command inherits it: the port would outlive the service."""
    service = activated(make(), held)
    await service.start()
    job = await service.submit("sleep 60")
    await service.running(job)
    inode = f"socket:[{os.fstat(held.fileno()).st_ino}]"
    holders = {pid for pid in os.listdir("/proc") if pid.isdecimal() and inode in open_files(pid)}
    assert holders == {str(os.getpid()), str(service.process.pid)}


def open_files(pid: Any) -> Any:
    """Return the targets of the descriptors of a process."""
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


@pytest.mark.heavy
async def test_a_port_that_is_held_outside_stays_open_over_restarts(make: Any, held: Any) -> None:
    """A client that connects while the service is stopped or killed waits, and is answered by the next one."""
    service = activated(make(), held)
    await service.start()
    for end in (service.stop, service.kill):
        await end()
        waiting = asyncio.create_task(health(service.url))
        await until(lambda: waiting_clients(held) == 1, what="the client waits in the queue")
        await service.start()
        assert await asyncio.wait_for(waiting, WAIT_TIMEOUT) == 200


def waiting_clients(listener: Any) -> Any:
    """How many connections of a listening socket have not been accepted: of TCP_INFO it is `tcpi_unacked`."""
    return int.from_bytes(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28], sys.byteorder)


@pytest.mark.heavy
async def test_a_passed_unix_socket_keeps_its_file(make: Any, tmp_path: Path) -> None:
    """A passed Unix socket is served, and its file is left to systemd."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "front"))
        listener.listen()
        service = activated(make(), listener)
        await service.start()
        assert await health(f"unix:{tmp_path}/front") == 200
        assert await service.stop() == 0
    assert os.path.lexists(tmp_path / "front")


def test_what_is_passed_is_taken_and_not_inherited_further(held: Any) -> None:
    """All passed sockets are taken in order, and no variable is left in the environment."""
    port = held.getsockname()[1]
    assert taken(held, held) == [str([(3, port, False), (4, port, False)]), "[]"]


@pytest.mark.parametrize(
    "environment", ["LISTEN_PID=1 LISTEN_FDS=1", "LISTEN_FDS=1", "LISTEN_PID=PID LISTEN_FDS=some", "LISTEN_PID=PID"]
)
def test_what_was_passed_to_another_process_is_not_taken(held: Any, environment: str) -> None:
    """Variables that name another process, or are empty, are only removed."""
    assert taken(held, environment=environment) == ["[]", "[]"]


@pytest.mark.parametrize("kind", ["datagram", "unlistened", "connected", "packets", "file", "nothing"])
def test_what_no_connection_can_be_accepted_on_is_refused(tmp_path: Path, kind: str) -> None:
    """The message names the descriptor and what the socket unit needs."""
    with contextlib.ExitStack() as stack:
        passed: Any
        match kind:
            case "datagram":
                passed = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            case "unlistened":
                passed = stack.enter_context(socket.socket())
            case "connected":
                passed = stack.enter_context(pair())
            case "packets":
                passed = packets = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                packets.bind("")
                packets.listen()
            case "file":
                passed = stack.enter_context(open(tmp_path / "file", "w"))
            case _:
                passed = None
        words, left = taken(*([passed] if passed else []), environment="LISTEN_PID=PID LISTEN_FDS=1")
    assert words == (
        "systemd passed descriptor 3, which cannot accept connections: the socket unit needs "
        "ListenStream= with an address or a path, and Accept=no"
    )
    assert left == "[]"


@contextlib.contextmanager
def pair() -> Iterator[Any]:
    """One of two connected sockets."""
    one, other = socket.socketpair()
    with one, other:
        yield one


@pytest.mark.heavy
async def test_systemds_own_tool_starts_it(make: Any) -> None:
    """Under systemd-socket-activate the first connection starts the service, which answers it."""
    tool = shutil.which("systemd-socket-activate")
    if tool is None:
        assert os.environ.get("CI") != "true", "systemd-socket-activate is missing"
        pytest.skip("no systemd-socket-activate here")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service = make()
    service.program = [tool, "--listen", f"127.0.0.1:{port}", *SERVE]

    async def knock() -> Any:
        async def reached() -> Any:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                return await health(f"http://127.0.0.1:{port}")

        return await until(reached)

    _, answer = await asyncio.gather(service.start(), knock())
    assert answer == 200
    assert await urls(service) == [f"http://127.0.0.1:{port}"]


# What others could reach: in a network of its own, so that nobody can

ANYWHERE = """
import os, socket, sys
listener = socket.create_server(("0.0.0.0", 0))
os.dup2(os.dup2(listener.fileno(), 100), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def alone() -> Any:
    """Return the words that start a program in a network of its own."""
    words = ["unshare", "--net"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        assert os.environ.get("CI") != "true", "no network of its own can be made"
        pytest.skip("only root can make a network of its own")
    return words


@pytest.mark.heavy
async def test_a_passed_socket_that_others_can_reach_needs_tokens(make: Any, alone: Any) -> None:
    """Without tokens it is refused as the same address in the settings would be."""
    service = make()
    service.program = [*alone, sys.executable, "-c", ANYWHERE, *SERVE]
    status, words = await refused(service)
    assert status == 2
    assert words.startswith("systemd passed a socket on http://0.0.0.0:")
    assert words.endswith("shellrunner token create NAME")
    assert not service.state_dir.exists()


@pytest.mark.heavy
async def test_a_passed_socket_that_others_can_reach_keeps_its_tokens(make: Any, alone: Any, tmp_path: Path) -> None:
    """A reload that would leave it without any is refused, and the old ones stay."""
    config = tmp_path / "config.toml"
    config.write_text(f"[[auth.tokens]]\nname = 'ci'\nhash = '{hash_of('ci')}'\nscopes = ['read']\n")
    config.chmod(0o600)
    service = make()
    service.program = [*alone, sys.executable, "-c", ANYWHERE, *SERVE, "--config", str(config)]
    await service.start()
    config.write_text("")
    service.process.send_signal(signal.SIGHUP)
    entries = await until(lambda: [entry for entry in service.log if "reloaded" in entry["event"]])
    assert entries[0]["event"].startswith("not reloaded")
    assert entries[0]["reasons"][0].startswith("systemd passed a socket on http://0.0.0.0:")


@pytest.mark.heavy
async def test_tokens_in_clear_are_warned_of(make: Any, alone: Any, certificates: Any) -> None:
    """Listening beyond loopback without TLS logs a warning with the URLs; with TLS, or on loopback, none."""
    tokens = json.dumps([{"name": "ci", "hash": hash_of("ci"), "scopes": ["run"]}])
    service = make(SERVER__LISTEN='["0.0.0.0:0", "127.0.0.1:0"]', AUTH__TOKENS=tokens)
    service.program = [*alone, *SERVE]
    await service.start()
    (warning,) = [entry for entry in service.log if "sent unencrypted" in entry["event"]]
    assert (warning["level"], warning["urls"]) == ("warning", (await urls(service))[:1])
    await service.stop()
    service.log = []
    chain, key = certificates("server")
    await service.start(SERVER__TLS_CERT=chain, SERVER__TLS_KEY=key)
    assert [entry for entry in service.log if "sent unencrypted" in entry["event"]] == []


# TLS


@pytest.fixture
def certificates(tmp_path: Path) -> Any:
    """Return a function that makes certificates for localhost, and returns their path and the key's."""

    def make(name: Any, algorithm: str = "ec") -> tuple[Any, ...]:
        chain, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        curve = ["-pkeyopt", "ec_paramgen_curve:P-256"] if algorithm == "ec" else []
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", algorithm, *curve, "-noenc", "-days", "2", "-subj", f"/CN={name}",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", chain],
            check=True, capture_output=True,
        )  # fmt: skip
        key.chmod(0o600)
        return chain, key

    return make


def trusting(*chains: Any, version: Any = None) -> Any:
    """Return a client that believes these certificates, and speaks only this version of TLS."""
    context = ssl.create_default_context()
    for chain in chains:
        context.load_verify_locations(chain)
    if version:
        context.maximum_version = version
    return context


@pytest.mark.heavy
async def test_over_tls_it_speaks_1_3_and_nothing_older(make: Any, tmp_path: Path, certificates: Any) -> None:
    """A client with TLS 1.3 is served, one with 1.2 or without TLS is not; a Unix socket has no TLS.

    A2: the audit log has a line for each failed handshake.
    """
    chain, key = certificates("server")
    service = make(
        SERVER__TLS_CERT=chain,
        SERVER__TLS_KEY=key,
        SERVER__LISTEN=json.dumps(["127.0.0.1:0", f"unix:{tmp_path}/front"]),
    )
    await service.start()
    url, unix = await urls(service)
    assert url.startswith("https://127.0.0.1:")
    assert await health(url, ssl=trusting(chain)) == 200
    assert await health(unix) == 200
    with pytest.raises(aiohttp.ClientConnectorError):
        await health(url, ssl=trusting(chain, version=ssl.TLSVersion.TLSv1_2))
    with pytest.raises(aiohttp.ClientError):
        await health(url.replace("https", "http"))
    assert await health(url, ssl=trusting(chain)) == 200
    refused = [entry for entry in service.log if entry["event"] == "rejected"]
    assert {(entry["why"], entry["detail"]) for entry in refused} == {
        ("tls-handshake", "unsupported protocol"),
        ("tls-handshake", "http request"),
    }
    assert all(entry["from"].startswith("127.0.0.1:") for entry in refused)


class Client:
    """A connection to a bare app."""

    def __init__(self, port: Any, context: Any = None, name: Any = None) -> None:
        """`name` is the server's, as the client knows it."""
        self._where = {"port": port, "ssl": context, "server_hostname": name}

    async def __aenter__(self) -> Any:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", **self._where)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        self._writer.transport.abort()

    def shown(self) -> Any:
        """Return the common name of the certificate that the server shows."""
        return self._writer.get_extra_info("peercert")["subject"][0][0][1]

    async def ask(self) -> Any:
        """Ask; return the status line."""
        self._writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), WAIT_TIMEOUT)
        return answer.split(b"\r\n")[0]

    async def end(self) -> Any:
        """Wait for the end; return what came before it."""
        return await asyncio.wait_for(self._reader.read(), WAIT_TIMEOUT)


async def shown(*client: Any) -> Any:
    """Return the common name of the certificate that a new client is shown."""
    async with Client(*client) as new:
        return new.shown()


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"], ids=["by-name", "by-address"])
async def test_a_new_certificate_is_shown_once_it_is_reloaded(certificates: Any, name: str) -> None:
    """Also where its key is of another kind, and to clients that name no server; open connections go on."""
    (chain, key), (new_chain, new_key) = certificates("old", "rsa:2048"), certificates("new")
    context = trusting(chain, new_chain)
    async with served(tls_cert=str(chain), tls_key=str(key)) as (certificate, port):
        client = port, context, name
        async with Client(*client) as before:
            new_chain.replace(chain)
            new_key.replace(key)
            assert (before.shown(), await shown(*client)) == ("old", "old")
            certificate.reload()
            assert await shown(*client) == "new"
            assert await before.ask() == b"HTTP/1.1 200 OK"


def spoil_key(chain: Any, key: Any) -> None:
    key.write_text("nothing of the kind")


def spoil_chain(chain: Any, key: Any) -> None:
    chain.write_text("nothing of the kind")


def lose_key(chain: Any, key: Any) -> None:
    key.unlink()


def pipe_key(chain: Any, key: Any) -> None:
    key.unlink()
    os.mkfifo(key, 0o600)


def open_key(chain: Any, key: Any) -> None:
    key.chmod(0o644)


def append_key(chain: Any, key: Any) -> None:
    chain.write_bytes(chain.read_bytes() + key.read_bytes())
    chain.chmod(0o644)


def encrypt_key(chain: Any, key: Any) -> None:
    subprocess.run(
        ["openssl", "ec", "-in", key, "-out", f"{key}.aes", "-aes256", "-passout", "pass:x"],
        check=True,
        capture_output=True,
    )
    os.chmod(f"{key}.aes", 0o600)
    os.replace(f"{key}.aes", key)


BROKEN_FILES = [
    (spoil_key, "server.tls_cert {chain} and server.tls_key {key} do not match: "),
    (spoil_chain, "server.tls_cert {chain} and server.tls_key {key} do not match: "),
    (lose_key, "{key}: cannot be read: No such file or directory"),
    (pipe_key, "{key}: must be a regular file: a pipe cannot be read again at SIGHUP"),
    (open_key, "{key}: contains the private key, but other users can read or change it: chmod g-w,o= {key}"),
    (append_key, "{chain}: contains the private key, but other users can read or change it: chmod g-w,o= {chain}"),
    (
        encrypt_key,
        "server.tls_key is encrypted, and a service cannot ask for the password: store the key unencrypted",
    ),
]


@pytest.mark.parametrize(("spoil", "words"), BROKEN_FILES, ids=[spoil.__name__ for spoil, _ in BROKEN_FILES])
async def test_a_certificate_that_is_no_good_is_refused_and_the_old_one_stays(
    certificates: Any, spoil: Any, words: Any
) -> None:
    """At a reload the log names the file, and the old certificate stays; at the start it is refused."""
    chain, key = certificates("good")
    context = trusting(chain)
    async with served(tls_cert=str(chain), tls_key=str(key)) as (certificate, port):
        spoil(chain, key)
        with pytest.raises(ConfigError) as refusal:
            certificate.reload()
        assert str(refusal.value).startswith(words.format(chain=chain, key=key))
        assert await shown(port, context, "localhost") == "good"
    with pytest.raises(ConfigError) as refusal:
        Certificate(chain, key)
    assert str(refusal.value).startswith(words.format(chain=chain, key=key))


async def test_a_key_that_does_not_belong_to_the_certificate_is_refused_at_the_start(
    make: Any, certificates: Any
) -> None:
    """The exit code is 2 with a message, and nothing is created."""
    chain, key = certificates("one")[0], certificates("other")[1]
    service = make(SERVER__TLS_CERT=chain, SERVER__TLS_KEY=key)
    status, words = await refused(service)
    assert (status, words) == (
        2,
        f"server.tls_cert {chain} and server.tls_key {key} do not match: key values mismatch",
    )
    assert not service.state_dir.exists()


async def test_a_client_that_never_begins_tls_is_cut_and_others_are_served_meanwhile(
    certificates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is disconnected once the time for a handshake is over."""
    monkeypatch.setattr("shellrunner.service.network.tls_protocol.TLS_TIMEOUT", 0.3)
    chain, key = certificates("server")
    async with (
        served(tls_cert=str(chain), tls_key=str(key)) as (_, port),
        Client(port) as silent,
        Client(port, trusting(chain), "localhost") as other,
    ):
        assert await other.ask() == b"HTTP/1.1 200 OK"
        assert await silent.end() == b""
        assert await other.ask() == b"HTTP/1.1 200 OK"
