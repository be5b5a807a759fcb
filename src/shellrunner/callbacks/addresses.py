"""The addresses to which callbacks may be sent: public ones, and those that the configuration names.

Pure functions of addresses, used by `delivery` before it connects. Must not know names, HTTP or jobs.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

IpAddress = IPv4Address | IPv6Address
_IpNetwork = IPv4Network | IPv6Network

# The IANA special-purpose address registries (RFC 6890), apart from addresses that are globally reachable. Not
# `is_global`, which differs between Python's patch releases.
_SPECIAL_IPV4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network; the kernel connects 0.0.0.0 to itself
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT, and overlay networks
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, and the metadata of most clouds
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",  # multicast, reserved and broadcast
        ),
    )
)
_GLOBAL_IPV6: Final = IPv6Network(
    "2000::/3"
)  # all other unicast is special: loopback, fc00::/7, fe80::/10, fec0::/10
_SPECIAL_IPV6: Final = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, among them Teredo, which contains IPv4 addresses
            "2001:db8::/32",
            "2002::/16",  # 6to4, which contains IPv4 addresses
            "3fff::/20",
        ),
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052; a translator sends these on to the IPv4 address at their end
# Metadata and credentials of clouds. A network that contains one does not name it.
_METADATA: Final = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
        ),
    )
)


class AddressPolicy:
    """Decides which addresses a host of the configuration may have."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Allow these networks besides the public addresses."""
        self._networks: tuple[_IpNetwork, ...] = tuple(map(ip_network, networks))

    def allows(self, host: str, address: IpAddress) -> bool:
        """Return whether `host`, which the configuration names (with a port or without), may have this address.

        An address that is itself the host is named by that. `localhost` is loopback, and nothing else (RFC 6761).
        """
        name, address = _name_of(host), _effective(address)
        literal = _literal(name)
        if literal is not None:
            return literal == address
        if f".{name.rstrip('.')}".endswith(".localhost"):
            return address.is_loopback
        return self._is_named(address) or not is_special(address)

    def _is_named(self, address: IpAddress) -> bool:
        containing = [network for network in self._networks if address in network]
        if address in _METADATA:
            return any(network.num_addresses == 1 for network in containing)
        return bool(containing)


def is_special(address: IpAddress) -> bool:
    """Return whether an address is not for the public internet, however it is written."""
    address = _effective(address)
    if address in _METADATA:
        return True
    if isinstance(address, IPv4Address):
        return any(address in network for network in _SPECIAL_IPV4)
    return address not in _GLOBAL_IPV6 or any(address in network for network in _SPECIAL_IPV6)


def _effective(address: IpAddress) -> IpAddress:
    """Return the IPv4 address to which an IPv6 address leads, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address


def _name_of(host: str) -> str:
    """Return a host without its port and its brackets."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _literal(name: str) -> IpAddress | None:
    try:
        return _effective(ip_address(name))
    except ValueError:
        return None
