"""Where a connection comes from: what counts as one source while nobody on it was authenticated.

Used by `connections`. Over loopback and Unix sockets the source is a user, as far as the kernel can name it;
elsewhere an address, or a /64 of IPv6. Must not know requests: what a proxy says of its client is not known yet.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from shellrunner.access.throttle import source_key
from shellrunner.peer_credentials import ConnectionPeer

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Source(NamedTuple):
    """What a connection is counted by.

    is_provisional: it came over loopback, and the kernel was not asked yet for its user: that costs more than the
    rest of what is done for a connection, so it is asked only where there are many. is_own: a process
    of the service's own user. is_proxy: one of `server.proxies`, which has many clients.
    """

    key: str
    is_provisional: bool = False
    is_own: bool = False
    is_proxy: bool = False


def find_source(
    transport: asyncio.BaseTransport, process: ConnectionPeer, proxies: Sequence[Network], own_uid: int
) -> Source:
    """Return the source of an accepted connection, as far as it is known at no cost."""
    connection = transport.get_extra_info("socket")
    peer: Any = transport.get_extra_info("peername")
    if connection.family == socket.AF_UNIX:
        return _of_user(process.uid(), own_uid, Source("unix, unknown user"))
    if not isinstance(peer, tuple):  # it has gone already
        return Source("unknown")
    is_proxy = _is_proxy(peer[0], tuple(proxies))
    if _is_loopback(peer[0]):
        return Source("loopback", is_provisional=True, is_proxy=is_proxy)
    return Source(source_key(peer[0].partition("%")[0]), is_proxy=is_proxy)


def identify(source: Source, process: ConnectionPeer, own_uid: int) -> Source:
    """Return what a provisional source is: the user at the other end, if the kernel can name it."""
    unknown = Source("loopback, unknown user", is_proxy=source.is_proxy)
    return _of_user(process.uid(), own_uid, unknown)


def _of_user(uid: int | None, own_uid: int, unknown: Source) -> Source:
    return unknown if uid is None else unknown._replace(key=f"uid:{uid}", is_own=uid == own_uid)


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "::ffff:127.")) or address == "::1"


@lru_cache(1024)
def _is_proxy(address: str, proxies: tuple[Network, ...]) -> bool:
    if not proxies:
        return False
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in network for network in proxies)
