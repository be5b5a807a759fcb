"""Which loopback addresses a host name means, and whether this server has bound all of them.

A browser takes `http://localhost:8000` for one origin, whichever of 127.0.0.1 and ::1 answers, and tries ::1 first.
So another user's process that listens on the address that this server has left free serves pages, and leaves service
workers behind, with the rights of this server's own page. Owned by the origin policy. Must not know requests.
"""

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

from shellrunner import ascii_text

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV4: Final = ipaddress.IPv4Address("127.0.0.1")
_IPV6: Final = ipaddress.IPv6Address("::1")
# By RFC 6761 (6.3) and in browsers, without a look at /etc/hosts or the DNS, in which it may mean less.
_LOCALHOST: Final[frozenset[IpAddress]] = frozenset({_IPV4, _IPV6})
_HOSTS_FILE: Final = Path("/etc/hosts")
_DEVICE_NAME_BYTES: Final = 16  # IFNAMSIZ


class BoundAddresses:
    """The TCP addresses that this server has bound, as pairs of address and port."""

    def __init__(self, endpoints: Iterable[tuple[IpAddress, int]], *, has_ipv6: bool = True) -> None:
        """Take the addresses; without `has_ipv6`, no process of this machine can use ::1."""
        self._endpoints = frozenset(endpoints)
        self._has_ipv6 = has_ipv6

    @classmethod
    def from_sockets(cls, sockets: Iterable[socket.socket]) -> Self:
        """Return the addresses of these sockets, of which those of Unix sockets do not count."""
        return cls((each for listener in sockets for each in _endpoints(listener)), has_ipv6=_has_ipv6_loopback())

    def cover(self, host: str, port: int) -> bool:
        """Return whether every loopback address that a host means is this server's at this port."""
        return all(self._is_bound(address, port) for address in loopback_addresses(host))

    def accept(self, name: str) -> bool:
        """Return whether requests may come by a name of server.names over TCP, at its own port or at any of ours."""
        host, port = split_port(name)
        ports = self._ports if port is None else {port}
        return not self._ports or any(self.cover(host, each) for each in ports)

    def accept_origin(self, origin: str) -> bool:
        """Return whether an origin of server.origins is accepted: at another port it is that of a proxy."""
        scheme, _, name = origin.partition("://")
        host, own_port = split_port(name)
        port = own_port or DEFAULT_PORTS[scheme]
        return port not in self._ports or self.cover(host, port)

    @property
    def _ports(self) -> set[int]:
        return {port for _, port in self._endpoints}

    def _is_bound(self, address: IpAddress, port: int) -> bool:
        if address == _IPV6 and not self._has_ipv6:
            return True  # nobody can take it, and nobody can connect to it
        return not self._endpoints.isdisjoint({(address, port), (_wildcard(address), port)})


def split_port(name: str) -> tuple[str, int | None]:
    """Split the authority of a URL into the host and the port, or None if it has none."""
    host, _, port = name.rpartition(":")
    return (host, int(port)) if ":" in name.rpartition("]")[2] else (name, None)


def is_localhost(host: str) -> bool:
    """Return whether a host is `localhost` or a name below it."""
    name = ascii_text.lower(host).removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def loopback_addresses(host: str) -> frozenset[IpAddress]:
    """Return the loopback addresses that a host, as in a URL without its port, may mean; empty for any other host."""
    if is_localhost(host):
        return _LOCALHOST
    name = ascii_text.lower(host).removesuffix(".")
    address = _literal(name)
    found: list[IpAddress] = _from_hosts_file(name) if address is None else [address]
    return frozenset(_loopback_only(found))


def _endpoints(listener: socket.socket) -> list[tuple[IpAddress, int]]:
    """Return what a socket holds: nothing if others can bind the same address on another interface."""
    if listener.family not in {socket.AF_INET, socket.AF_INET6}:
        return []
    if listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _DEVICE_NAME_BYTES).strip(b"\0"):
        return []
    host, port = listener.getsockname()[:2]
    address = _unmapped(ipaddress.ip_address(host.partition("%")[0]))
    if address.version == 4 or not address.is_unspecified:
        return [(address, port)]
    is_dual = not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return [(address, port), *([(ipaddress.IPv4Address(0), port)] if is_dual else [])]


def _literal(host: str) -> IpAddress | None:
    """Parse an address: also IPv4 with fewer parts or in hexadecimal, since URLs may have it (127.1, 0x7f000001)."""
    try:
        return _unmapped(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _from_hosts_file(name: str) -> list[IpAddress]:
    """Return the addresses that /etc/hosts has for a name: Debian's has 127.0.1.1 for that of the machine."""
    try:
        lines = _HOSTS_FILE.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    rows = (line.partition("#")[0].split() for line in lines)
    found = (_literal(row[0].partition("%")[0]) for row in rows if name in map(ascii_text.lower, row[1:]))
    return [address for address in found if address is not None]


def _loopback_only(addresses: Iterable[IpAddress]) -> Iterator[IpAddress]:
    """Yield the loopback addresses; a connection to the unspecified address goes to one too."""
    for address in addresses:
        if address.is_unspecified:
            yield _IPV4 if address.version == 4 else _IPV6
        elif address.is_loopback:
            yield address


def _unmapped(address: IpAddress) -> IpAddress:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _wildcard(address: IpAddress) -> IpAddress:
    return type(address)(0)


def _has_ipv6_loopback() -> bool:
    """Return whether processes of this machine can listen on ::1."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((str(_IPV6), 0))
    except OSError:
        return False
    return True
