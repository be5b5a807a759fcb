"""Another user listens where the service was expected: the client and the command line send it nothing."""

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shellrunner.client import Client, ClientError
from shellrunner.client.blocking_transport import BlockingTransport
from shellrunner.peer_credentials import SockDiag, server_uid
from shellrunner.service.network.binding import Listeners
from shellrunner.service.network.listening import listening
from shellrunner.systemd import sockets
from shellrunner.web.http.connections import CONNECTIONS, ConnectionLimits, Connections
from tests.support.command_line import Typist, finished
from tests.support.directories import open_directory
from tests.support.service import Service
from tests.support.squatter import OTHER_UID, squatting
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have processes of other users")

TOKEN = "a-token-that-nobody-may-see"
NOBODY = 65_534  # as shipped, also the uid for those that have none


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Yield a directory that every user may change, unlike those of pytest."""
    with open_directory(0o777) as made:
        yield made


@contextlib.contextmanager
def being(uid: int) -> Iterator[None]:
    """Act as this user meanwhile."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


# The blocking one blocks the test's event loop too; the squatters are other processes.
@pytest.fixture(params=[None, BlockingTransport], ids=["aiohttp", "blocking"])
def transport(request: pytest.FixtureRequest) -> Any:
    """Return what sends the requests of the client."""
    return request.param


@contextlib.asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[Client]:
    """Yield a client that would send a token, and does not retry."""
    async with Client(url, token=TOKEN, retry_for=0, **options) as client:
        yield client


async def refused(call: Awaitable[object]) -> ClientError:
    """Return the error of a call that must be refused, since the server is another user's."""
    with pytest.raises(ClientError) as caught:
        await call
    assert caught.value.kind == "other-user"
    assert not caught.value.is_transient
    assert "nothing was sent" in caught.value.detail
    return caught.value


LOOPBACK_URLS = {
    "ipv4": (["127.0.0.1"], "http://127.0.0.1:{port}"),
    "another-loopback": (["127.9.8.7"], "http://127.9.8.7:{port}"),
    "ipv6": (["::1"], "http://[::1]:{port}"),
    "mapped": (["127.0.0.1"], "http://[::ffff:127.0.0.1]:{port}"),
    "any": (["127.0.0.1"], "http://0.0.0.0:{port}"),
    "name": (["127.0.0.1", "::1"], "http://localhost:{port}"),
    "without-scheme": (["127.0.0.1"], "127.0.0.1:{port}"),
}


@pytest.mark.parametrize("way", LOOPBACK_URLS)
async def test_a5_another_user_on_loopback_is_sent_nothing(way: str, transport: Any) -> None:
    """A5: by whichever address it is reached, it gets no byte, and the error names its uid and what to set."""
    addresses, url = LOOPBACK_URLS[way]
    async with (
        squatting(*addresses) as squatter,
        client_of(url.format(port=squatter.port), make_transport=transport) as client,
    ):
        error = await refused(client.submit("true", env={"SECRET": "geheim"}, stdin="geheim"))
        assert f"the uid {OTHER_UID}" in error.detail
        assert f'set server_user to "{OTHER_UID}"' in error.detail
        await squatter.leave()
        assert (squatter.accepted, squatter.came) == (1, b"")


async def test_a5_another_users_unix_socket_is_sent_nothing(open_place: Path, transport: Any) -> None:
    """A5: the same at a path; `nobody`, whose uid stands for others too, is named and not trusted."""
    path = f"{open_place}/front"
    async with squatting(path, uid=NOBODY) as squatter, client_of(f"unix:{path}", make_transport=transport) as client:
        error = await refused(client.submit("true"))
        assert f"the user nobody (uid {NOBODY})" in error.detail
        with being(NOBODY):
            await refused(client.submit("true"))
        await squatter.leave()
        assert (squatter.accepted, squatter.came) == (2, b"")


CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "submit": lambda client: client.submit("true"),
    "run": lambda client: client.run(argv=["true"]),
    "job": lambda client: client.job(1),
    "page": lambda client: client.jobs_page(),
    "rows": lambda client: anext(aiter(client.jobs())),
    "wait": lambda client: client.wait(1),
    "signal": lambda client: client.signal(1, "SIGHUP"),
    "input": lambda client: client.write_stdin(1, b"geheim"),
    "follow": lambda client: anext(aiter(client.follow(1))),
    "changes": lambda client: anext(aiter(client.changes())),
}


async def test_a5_no_request_of_the_client_is_sent_to_another_user(transport: Any) -> None:
    """A5: requests, pages, streams and waits alike, each with a connection of its own, and retries as well."""
    async with (
        squatting("127.0.0.1") as squatter,
        Client(f"http://127.0.0.1:{squatter.port}", token=TOKEN, make_transport=transport) as client,
    ):
        for call in CALLS.values():
            await refused(call(client))
        await squatter.leave()
        assert (squatter.accepted, squatter.came) == (len(CALLS), b"")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_a5_tls_without_verification_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: Any
) -> None:
    """A5: where no certificate is verified, another user gets a handshake and no request; a verified one is proof."""
    made = tmp_path / "both.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", made, "-out", "-"]
    done = subprocess.run([*make, *map(str, names)], check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + done.stdout)
    careless = ssl.create_default_context()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    nameless = ssl.create_default_context(cafile=str(made))
    nameless.check_hostname = False
    verified = ssl.create_default_context(cafile=str(made))
    async with squatting("127.0.0.1", certificate=str(made)) as squatter:
        url = f"https://localhost:{squatter.port}"
        for tls in (careless, nameless):
            async with client_of(url, tls=tls, make_transport=transport) as client:
                await refused(client.submit("true"))
        async with client_of(url, make_transport=transport) as client:
            with pytest.raises(ClientError, match="cannot verify the certificate") as caught:
                await client.submit("true")
            assert caught.value.kind == "untrusted"
        async with client_of(url, tls=verified, make_transport=transport) as client:
            with pytest.raises(ClientError, match="answered 401"):
                await client.submit("true")
        monkeypatch.setenv("SSL_CERT_FILE", str(made))  # what the system trusts
        async with client_of(url, make_transport=transport) as client:
            with pytest.raises(ClientError, match="answered 401"):
                await client.submit("true")
        await squatter.leave()
        assert squatter.came.count(TOKEN.encode()) == squatter.came.count(b"POST ") == 2


TRUSTED = [(0, None), (OTHER_UID, OTHER_UID), (OTHER_UID, str(OTHER_UID)), (NOBODY, "nobody"), (OTHER_UID, "*")]


@pytest.mark.parametrize("place", ["tcp", "unix"])
async def test_a5_root_and_the_named_user_are_the_server(open_place: Path, place: str, transport: Any) -> None:
    """A5: to an ordinary user root's server is trusted; another's is by name, by uid, or if anybody's is."""
    for number, (uid, user) in enumerate(TRUSTED):
        path = f"{open_place}/{number}"
        async with squatting("127.0.0.1" if place == "tcp" else path, uid=uid) as squatter:
            url = f"http://127.0.0.1:{squatter.port}" if place == "tcp" else f"unix:{path}"
            async with client_of(url, server_user=user, make_transport=transport) as client:
                with being(OTHER_UID + 1), pytest.raises(ClientError, match="answered 401"):
                    await client.submit("true")
            await squatter.leave()
            assert squatter.came.count(TOKEN.encode()) == 1, (uid, user)


async def test_a5_localhost_is_this_machine_whatever_resolves_it(
    monkeypatch: pytest.MonkeyPatch, transport: Any
) -> None:
    """A5: where a name server answers for localhost, nothing is sent to the address that it gives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but finds the address it would be sent from
        except OSError:
            pytest.skip("this machine has no address but loopback")
        outside = probe.getsockname()[0]
    async with squatting(outside, uid=0) as squatter:
        place = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (outside, squatter.port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [place])
        for name in ("localhost", "localhost.", "LOCALHOST", "jobs.localhost"):
            async with client_of(f"http://{name}:{squatter.port}", make_transport=transport) as client:
                with pytest.raises(ClientError, match="resolves to an address that is not loopback") as caught:
                    await client.submit("true")
                assert caught.value.kind == "other-user"
        async with client_of(f"http://elsewhere.test:{squatter.port}", make_transport=transport) as client:
            with pytest.raises(ClientError, match="answered 401"):
                await client.submit("true")
        await squatter.leave()
        assert squatter.came.count(TOKEN.encode()) == 1


async def test_a5_a_user_who_does_not_exist_cannot_be_named() -> None:
    """A5: a misspelled server_user is an error at once, not a user who is never met."""
    with pytest.raises(ValueError, match="no such user: 'no-such-user'"):
        Client(server_user="no-such-user")


ACCEPTING = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
os.setuid(int(sys.argv[2]))
print(listener.accept()[0].recv(100))
"""


async def test_a5_who_accepts_counts_and_not_who_listens() -> None:
    """A5: a listener that root made, as socket units are, does not make its other user root."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", ACCEPTING, str(listener.fileno()), str(OTHER_UID),
            pass_fds=[listener.fileno()], stdout=subprocess.PIPE, cwd="/",
        )  # fmt: skip
        async with client_of(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            await refused(client.submit("true"))
        assert (await process.communicate())[0] == b"b''\n"


async def test_a5_a_socket_units_unix_socket_stays_roots(open_place: Path) -> None:
    """A5: a service of any user leaves a socket that systemd passed as it is, so that every client trusts it."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{open_place}/unit")
        Path(f"{open_place}/unit").chmod(0o666)
        made.listen()
        passed = sockets._listener(os.dup(made.fileno()))
    app = web.Application()
    app[CONNECTIONS] = Connections(ConnectionLimits())
    with contextlib.closing(passed), being(OTHER_UID):
        async with listening(app, Listeners([passed]), 0o600, None):
            with socket.socket(socket.AF_UNIX) as client, contextlib.closing(SockDiag()) as kernel:
                client.connect(f"{open_place}/unit")
                assert server_uid(client, kernel) == 0


async def test_a5_nothing_is_sent_before_a_process_has_accepted() -> None:
    """A5: a connection that waits in the queue has no owner yet: it is waited for, then the request is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with client_of(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            call = asyncio.create_task(client.submit("true"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await asyncio.shield(call)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                request = await asyncio.to_thread(connection.recv, 65536)
                assert request.startswith(b"POST /api/jobs ")
                connection.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
                with pytest.raises(ClientError, match="answered 401"):
                    await call


@pytest.mark.heavy
async def test_a5_after_a_restart_a_squatter_is_sent_nothing(service: Service, tmp_path: Path) -> None:
    """A5: `wait`, `logs -f` and `run`, which reconnect for minutes, end with the reason when another user listens."""
    port = int(service.url.rpartition(":")[2])
    typist = Typist(tmp_path, SHELLRUNNER_URL=service.url, SHELLRUNNER_TOKEN=TOKEN)
    job = await service.submit("sleep 1000")
    async with (
        typist.begin("wait", job) as wait,
        typist.begin("logs", "-f", job) as logs,
        typist.begin("run", "sleep 1000") as run,
    ):
        await service.running(job)
        await service.running(job + 1)
        await until(lambda: len(connections(port)) >= 3)
        await service.kill()
        async with squatting("127.0.0.1", port=port) as squatter:
            ends = [await finished(process) for process in (wait, logs, run)]
            file = tmp_path / ".config/shellrunner/client.toml"
            for end, code in zip(ends, (125, 1, 125), strict=True):
                assert (end.code, end.err.count(f"the uid {OTHER_UID}")) == (code, 1), end
                assert f"(SHELLRUNNER_SERVER_USER, or server_user in {file})" in end.err
            await squatter.leave()
            assert squatter.accepted >= 3
            assert squatter.came == b""


def connections(port: int) -> list[str]:
    """Return the kernel's rows of connections to this port that were accepted."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]
