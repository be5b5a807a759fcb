"""Where peers are installed: Debian's packages unpacked below a directory, Python's in a virtual environment there.

Nothing is installed for the system, and no service is started.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from benchmarks.figure import Round, Run, Unavailable

_PYTHON_PACKAGES = ("celery[redis]", "dramatiq", "flask-shell2http", "huey", "redis", "rq")
# The last four are what Debian's redis-server is linked with.
_DEBIAN_PACKAGES = (
    "nq", "task-spooler", "webhook", "redis-server", "redis-tools", "libjemalloc2", "liblua5.1-0", "liblzf1",
    "lua-bitop", "lua-cjson",
)  # fmt: skip
_PROGRAMS = Path(__file__).parent / "programs"


class Peer(NamedTuple):
    """A peer: a context that yields the round that runs so many commands."""

    name: str
    running: Callable[[Run, "Installation", int], AbstractContextManager[Round]]


class Installation:
    """The programs of the peers."""

    def __init__(self, path: Path) -> None:
        """Take the directory; it need not exist."""
        self._path = path.absolute()

    def program(self, name: str) -> str:
        """Return the path of a program, of the installation or of the system."""
        for path in (self._path / "venv/bin" / name, self._path / "root/usr/bin" / name):
            if path.exists():
                return str(path)
        if found := shutil.which(name):
            return found
        raise Unavailable("not installed")

    def python(self, package: str) -> str:
        """Return the interpreter that can import a package."""
        if not list(self._path.glob(f"venv/lib/*/site-packages/{package}/__init__.py")):
            raise Unavailable("not installed")
        return self.program("python")

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of the programs."""
        libraries = ":".join(map(str, sorted((self._path / "root/usr/lib").glob("*-linux-gnu*"))))
        path = f"{self._path}/root/usr/bin:{os.environ['PATH']}"
        return {
            "PATH": path,
            "LD_LIBRARY_PATH": libraries,
            "PYTHONPATH": str(_PROGRAMS),
            "LANG": "C.UTF-8",
            **variables,
        }


def install(path: Path) -> None:
    """Install what can be had of the peers; report what cannot."""
    path = path.absolute()
    (path / "packages").mkdir(parents=True, exist_ok=True)
    for package in _DEBIAN_PACKAGES:
        subprocess.run(["apt-get", "download", "-q", package], cwd=path / "packages", check=False)
    for archive in (path / "packages").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", archive, path / "root"], check=True)
    subprocess.run([sys.executable, "-m", "venv", path / "venv"], check=True)
    for package in _PYTHON_PACKAGES:
        subprocess.run([path / "venv/bin/pip", "install", "-q", package], check=False)


def free_port() -> int:
    """Return a port of loopback that was free just now, for programs that cannot choose one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until_listening(port: int) -> None:
    """Wait until a program listens at the port."""
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
