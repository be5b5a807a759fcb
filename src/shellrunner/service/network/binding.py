"""Bind the TCP addresses: all of them before the history is opened, and `localhost` on both loopback addresses.

Owned by the composition root. A server that may not have all of its addresses does not start: see
`web.security.loopback`. Must not know what is served on them.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from shellrunner.config import Address
from shellrunner.errors import ShellrunnerError
from shellrunner.web.security.loopback import BoundAddresses

_LOCALHOST: Final = ("127.0.0.1", "::1")
_WILDCARDS: Final = {"127.0.0.1": "0.0.0.0", "::1": "::"}  # noqa: S104  not bound: an address that covers the other
_MAX_ATTEMPTS: Final = 32  # at a port that is free on both loopback addresses
_IPV6_FREEBIND: Final = 78  # linux/in6.h, since 4.15; not in Python's socket module


class Listeners(NamedTuple):
    """The bound TCP sockets, and the Unix sockets that are still to be bound, in the order of the settings."""

    endpoints: Sequence[socket.socket | Address]

    @property
    def bound_addresses(self) -> BoundAddresses:
        """Return the TCP addresses."""
        return BoundAddresses.from_sockets(each for each in self.endpoints if isinstance(each, socket.socket))


@contextlib.contextmanager
def bound_listeners(addresses: Sequence[Address], passed: Sequence[socket.socket] = ()) -> Iterator[Listeners]:
    """Bind the addresses, unless sockets were passed, which replace them; the bound ones are closed at the end.

    Raises:
        ShellrunnerError: one of them is in use, or may not be used.
    """
    if passed:
        yield Listeners(passed)
        return
    with contextlib.ExitStack() as stack:
        endpoints: list[socket.socket | Address] = []
        for address in addresses:
            if address.path:
                endpoints.append(address)
            else:
                endpoints += map(stack.enter_context, _bind_hosts(_hosts(address, addresses), address.port))
        yield Listeners(endpoints)


def _hosts(address: Address, others: Sequence[Address]) -> list[str]:
    """Return the IP addresses that an address means, without those that a wildcard among the others covers."""
    if address.host != "localhost":
        return [address.host]
    wildcards = {other.host for other in others if other.port == address.port != 0}
    return [host for host in _LOCALHOST if _WILDCARDS[host] not in wildcards]


def _bind_hosts(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Bind all hosts at one port, which for 0 is one that is free on all of them."""
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        sockets: list[socket.socket] = []
        chosen = port
        for host in hosts:
            try:
                found = _bind(host, chosen, is_optional=len(hosts) > 1 and host == "::1")
            except OSError as error:
                for each in sockets:
                    each.close()
                if error.errno == errno.EADDRINUSE and port == 0 and attempt < _MAX_ATTEMPTS:
                    break
                raise cannot_listen(host, chosen, error, is_localhost=len(hosts) > 1) from None
            if found is not None:
                sockets.append(found)
                chosen = found.getsockname()[1]
        else:
            return sockets
    raise AssertionError("the last attempt returns or raises")


def _bind(host: str, port: int, *, is_optional: bool) -> socket.socket | None:
    """Bind a TCP socket; None if it is optional, and this machine has no IPv6."""
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        if is_optional and error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        # Connections of a server that has just ended do not hinder the next one; a listener does, of any user.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            if not is_optional or error.errno != errno.EADDRNOTAVAIL:
                raise
            # IPv6 is turned off (net.ipv6.conf.lo.disable_ipv6): hold the address in case it is turned on.
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def cannot_listen(host: str, port: int, error: OSError, *, is_localhost: bool = False) -> ShellrunnerError:
    """Return the error that names the address and the reason."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    text = f"cannot listen on {host} port {port}: {reason}"
    if is_localhost and error.errno == errno.EADDRINUSE:
        text += (
            ". The name localhost means both 127.0.0.1 and ::1, and a process that listens on one of them could act "
            "as this service: end that process, choose another port, or name one address with --listen"
        )
    return ShellrunnerError(text)
