"""From where a token may be used: the networks that the configuration names for it.

Used by the web side, once a token or a session of it was accepted. Must not know HTTP; an address that is not certain
is None.
"""

import ipaddress
from functools import lru_cache

from shellrunner.access import Identity
from shellrunner.config.auth import UNIX
from shellrunner.errors import NetworkNotAllowed


def check_network(identity: Identity, address: str | None) -> None:
    """Reject a client at an address from which the identity's token may not be used.

    `address` is an IP address, `unix` for a Unix socket, or None if it is not known, as behind a proxy that the
    configuration does not name.

    Raises:
        NetworkNotAllowed.
    """
    networks = identity.token.networks if identity.token else None
    if networks is not None and (address is None or not _is_in(address, tuple(networks))):
        raise NetworkNotAllowed(identity.name, address)


@lru_cache(1024)
def _is_in(address: str, networks: tuple[str, ...]) -> bool:
    if address == UNIX:
        return UNIX in networks
    try:
        client = ipaddress.ip_address(address)
    except ValueError:
        return False
    client = getattr(client, "ipv4_mapped", None) or client
    return any(client in ipaddress.ip_network(network) for network in networks if network != UNIX)
