"""`run -t` and `attach` with programs that ask at their terminal, and after the client itself was killed."""

import asyncio
import os
import pwd
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.cli.test_attach import number_of, types_into
from tests.support.command_line import Typist
from tests.support.service import Service
from tests.support.tcp_proxy import TcpProxy
from tests.support.users import NOBODY
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

CTRL_C, CTRL_D, UP = b"\x03", b"\x04", b"\x1b[A"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
# On the other side: the size, a line that is read, and the next size, after which it exits.
REMOTE = "stty size; read x; echo got $x; trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.02; done"


class SshServer(NamedTuple):
    """Where an SSH server listens, and the options with which its user gets in."""

    port: int
    options: list[str]


@pytest_asyncio.fixture(loop_scope="session")
async def ssh_server(tmp_path: Path) -> AsyncIterator[SshServer]:
    """Yield an SSH server of this user on loopback, whose host nobody has seen yet."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("needs an SSH server and its client")
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("needs /run/sshd, which the package's unit makes")
    for name in ("host", "user"):
        making = await asyncio.create_subprocess_exec(
            "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name
        )
        assert await making.wait() == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    process = await asyncio.create_subprocess_exec(SSHD, "-D", "-e", "-f", config, stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr
        line = await asyncio.wait_for(process.stderr.readline(), 10)
        assert b"listening" in line, line
        options = ["-i", f"{tmp_path}/user", "-o", f"UserKnownHostsFile={tmp_path}/known", "-o", "IdentitiesOnly=yes"]
        yield SshServer(port, ["-F", "none", *options])
    finally:
        process.kill()
        await process.wait()


@pytest.mark.heavy
async def test_ssh_asks_and_has_this_terminal(typist: Typist, ssh_server: SshServer) -> None:
    """Its question about an unknown host is answered here; the shell there has this size, also a new one."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    words = ("ssh", *ssh_server.options, "-tt", "-p", ssh_server.port, f"{user}@127.0.0.1", REMOTE)
    async with typist.at_terminal("run", "-t", "--", *words, rows=12, columns=50) as screen:
        await screen.shows(b"(yes/no/[fingerprint])? ")
        screen.types(b"yes\r")
        await screen.shows(b"12 50\r\n")
        screen.types("да\r".encode())
        await screen.shows("got да\r\n".encode())
        await screen.shows(b"ready\r\n")
        screen.resize(20, 200)
        await screen.shows(b"20 200\r\n")
        assert await screen.code() == 7


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("sudo") is None, reason="needs sudo")
async def test_sudo_gets_its_password(typist: Typist) -> None:
    """It asks at the job's terminal, what is typed is not shown, and Ctrl-C ends it."""
    sudo = ["sudo", "-k", "true"]
    if os.geteuid() == 0:
        sudo = ["runuser", "-u", NOBODY.pw_name, "--", *sudo]  # root is not asked
    async with typist.at_terminal("run", "-t", "--cwd", "/", "--", *sudo) as screen:
        try:
            await screen.shows(b"assword for ")
        except AssertionError:
            if os.geteuid() != 0:
                pytest.skip("this user is not asked for a password")
            raise
        screen.types(b"mellon\r")
        await screen.shows(b"try again")
        screen.types(CTRL_C)
        assert await screen.code() == 1
        assert b"mellon" not in screen.shown


async def test_python_is_typed_into(typist: Typist) -> None:
    """The prompt evaluates lines, has them again by the arrow keys, and ends with Ctrl-D."""
    async with typist.at_terminal("run", "-t", "--", sys.executable, "-q") as screen:
        await screen.shows(b">>> ")
        screen.types(b"print(6 * 7)\r")
        await screen.shows(b"42\r\n")
        screen.types(UP + b"\r")
        await until(lambda: screen.shown.count(b"42\r\n") == 2)
        screen.types(CTRL_D)
        assert await screen.code() == 0


@pytest.mark.heavy
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "hung up"])
async def test_a_client_that_is_gone_is_replaced(shared: Service, typist: Typist, is_killed: bool) -> None:
    """After kill -9 of the client, or when its window is closed, the next one draws the screen and types."""
    command = "printf '\\033[?1049h\\033[2J\\033[5;5HDRAWN'; while read x; do echo got $x; done"
    async with typist.at_terminal("run", "-t", command) as first:
        await first.shows(b"DRAWN")
        job = number_of(first)
        first.types(b"one\r")
        await first.shows(b"got one\r\n")
        if is_killed:
            os.kill(first.pid, signal.SIGKILL)
        else:
            first.hang_up()
        async with typist.at_terminal("attach", job) as second:
            await second.shows(b"\x1b[?1049h")
            await second.shows(b"\x1b[5;5HDRAWN")
            await second.shows(b"got one\r\n")
            await until(lambda: types_into(second, b"two\r", b"got two\r\n"))
            second.types(CTRL_D)
            assert await second.code() == 0
            assert b"\x1b[?1049l" in second.shown
    assert (await shared.result(job))["exit_code"] == 0


async def test_a_cut_network_loses_and_doubles_no_key(shared: Service, typist: Typist) -> None:
    """When every connection breaks, again and again, what is typed arrives once, and the screen goes on."""
    async with TcpProxy(shared.url) as proxy:
        typist.environment["SHELLRUNNER_URL"] = proxy.url
        command = "stty -echo; echo ready; while read x; do echo got $x; done"
        async with typist.at_terminal("run", "-t", command) as screen:
            await screen.shows(b"ready\r\n")
            for number in range(3):
                screen.types(f"a{number}".encode())
                proxy.cut()
                screen.types(f"b{number}\r".encode())
                await screen.shows(f"got a{number}b{number}\r\n".encode())
            screen.types(CTRL_D)
            assert await screen.code() == 0
            assert re.findall(rb"got (\w+)", screen.shown) == [b"a0b0", b"a1b1", b"a2b2"]
