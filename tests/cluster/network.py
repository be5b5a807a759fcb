"""Network namespaces as hosts: each has a cable to a hub, in which PostgreSQL and the tests are; a cable can be cut.

No namespace has a name or outlives the tests: each is held by a process with a parent-death signal. Nothing here
touches the machine's own network.
"""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

Direction = Literal["both", "to_host", "from_host"]

HUB: Final = "10.77.0.1"  # where PostgreSQL listens
_NOBODY: Final = "02:00:00:00:00:ff"  # the hardware address of no interface: what is sent there is dropped silently
_CLONE_NEWNET: Final = 0x40000000
_HOLDER: Final = [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "sh",
    "-c",
    "ip link set lo up && echo made && exec sleep infinity",
]


class Namespace:
    """A network namespace, and the process that holds it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", *_HOLDER], stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._holder.stdout is not None
        made = self._holder.stdout.readline()
        assert made == b"made\n", "needs network namespaces"
        self.pid = self._holder.pid
        self.path = f"/proc/{self.pid}/ns/net"

    @property
    def prefix(self) -> list[str]:
        """Return what a command line begins with to run here."""
        return ["nsenter", f"--net={self.path}"]

    def ip(self, *arguments: str) -> None:
        """Configure it by ip(8)."""
        subprocess.run([*self.prefix, "ip", *arguments], check=True)

    def members(self) -> list[int]:
        """Return the pids of the processes here, without its holder."""
        own, found = os.stat(self.path).st_ino, []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdecimal() and os.stat(f"/proc/{name}/ns/net").st_ino == own and int(name) != self.pid:
                    found.append(int(name))
        return found

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread be here: what it connects and starts is here too."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(self.path)
            yield
        finally:
            _enter(f"/proc/self/fd/{before}")
            os.close(before)

    def end(self) -> None:
        """Let go of it; it is gone with the last process in it."""
        self._holder.kill()
        self._holder.communicate()


class Cable:
    """The connection of one host to the hub."""

    def __init__(self, hub: Namespace, number: int) -> None:
        """Make the namespace of host `number` (1 to 250), and connect it."""
        self._hub, self.host = hub, Namespace()
        self.address, self._gateway = f"10.77.{number}.2", f"10.77.{number}.1"
        self._name = f"host{number}"
        hub.ip("link", "add", self._name, "type", "veth", "peer", "name", "hub", "netns", str(self.host.pid))
        hub.ip("address", "add", f"{self._gateway}/24", "dev", self._name)
        hub.ip("link", "set", self._name, "up")
        self.host.ip("address", "add", f"{self.address}/24", "dev", "hub")
        self.host.ip("link", "set", "hub", "up")
        self.host.ip("route", "add", "default", "via", self._gateway)

    def cut(self, direction: Direction = "both") -> None:
        """Drop every packet silently, in one direction or both; connections stay open, as with a broken switch."""
        if direction in ("both", "to_host"):
            self._hub.ip(
                "neighbour", "replace", self.address, "lladdr", _NOBODY, "dev", self._name, "nud", "permanent"
            )
        if direction in ("both", "from_host"):
            self.host.ip("neighbour", "replace", self._gateway, "lladdr", _NOBODY, "dev", "hub", "nud", "permanent")

    def heal(self) -> None:
        """Let packets pass again."""
        for namespace, address, device in self._ends("both"):
            namespace.ip("neighbour", "flush", "to", address, "dev", device, "nud", "all")

    def _ends(self, direction: Direction) -> list[tuple[Namespace, str, str]]:
        """Return who sends in this direction: its namespace, the address it sends to, and its interface."""
        ends = {"to_host": (self._hub, self.address, self._name), "from_host": (self.host, self._gateway, "hub")}
        return [end for name, end in ends.items() if direction in ("both", name)]

    def end(self) -> None:
        """Let go of the host's namespace; the cable is gone with it, or with the hub."""
        self.host.end()


@contextlib.contextmanager
def connected(hosts: Sequence[str]) -> Iterator[dict[str, Cable]]:
    """Connect these hosts to a hub that this thread is in; yield their cables. Needs root."""
    hub, cables = Namespace(), dict[str, Cable]()
    try:
        hub.ip("address", "add", f"{HUB}/32", "dev", "lo")
        for number, name in enumerate(hosts, 1):
            cables[name] = Cable(hub, number)
        with hub.entered():
            yield cables
    finally:
        for cable in cables.values():
            cable.end()
        hub.end()


def available() -> bool:
    """Whether this process may make network namespaces and interfaces."""
    if os.geteuid() != 0:
        return False
    command = ["unshare", "--net", "ip", "link", "add", "veth1", "type", "veth", "peer", "name", "veth2"]
    try:
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _enter(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:  # os.setns is in Python 3.12
            raise OSError(ctypes.get_errno(), f"setns {Path(path)}")
    finally:
        os.close(descriptor)
