"""Where a request came to and where it came from: Host, Origin and Sec-Fetch-Site, proxies, the client's address.

Used by the gate. All of it allows by name: what is not named is refused. Must not know tokens or resources.
"""

import ipaddress
import socket
from functools import lru_cache
from typing import Any, Final

from aiohttp import hdrs, web

from shellrunner.config import ServerSettings
from shellrunner.web.http import problems
from shellrunner.web.http.problems import HttpProblem

# What a proxy puts in: then the process at the other end of the connection is not the one that asks.
FORWARDED: Final = ("Forwarded", "Via", "X-Real-IP")
_FORWARDED_PREFIX: Final = "x-forwarded-"
_FETCH_SITE: Final = "Sec-Fetch-Site"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# What a page of another site may send and read, once config names its origin.
_MAY_SEND: Final = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer, Range"
)
_MAY_READ: Final = "Content-Location, ETag, Link, Location, Preference-Applied, Retry-After"


class OriginPolicy:
    """What this server is called, and which others may have their pages ask it."""

    def __init__(self, server: ServerSettings) -> None:
        self._names = tuple(server.names)
        self._origins = frozenset(server.origins)
        self._guests = frozenset(server.cors_origins)
        self._proxies = tuple(ipaddress.ip_network(proxy) for proxy in server.proxies)
        self._hosts = lru_cache(64)(self._named)

    def check_host(self, request: web.Request) -> None:
        """Be asked under one of our names.

        Raises:
            HttpProblem: under another, under none, or under two.
        """
        hosts = request.headers.getall(hdrs.HOST, ())
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts(request.scheme, local_port(request)):
            raise problems.wrong_host()

    def check_origin(self, request: web.Request) -> None:
        """Be asked by one of our own pages, by one of a site that config names, or by no page at all.

        Raises:
            HttpProblem: a page of another site asks.
        """
        headers = request.headers
        if self.cors_origin(request) is not None:
            return
        if hdrs.ORIGIN in headers:
            own = f"{request.scheme}://{headers[hdrs.HOST].lower()}"
            for origin in headers.getall(hdrs.ORIGIN):
                if origin.lower() != own and origin.lower() not in self._origins:
                    raise HttpProblem("cross-site", "Origin is another site")
        if _FETCH_SITE in headers:
            sites = {site.strip().lower() for site in headers.getall(_FETCH_SITE)}
            if not sites <= {"same-origin", "none"}:
                raise HttpProblem("cross-site", "Sec-Fetch-Site says that another site asks")

    def cors_origin(self, request: web.Request) -> str | None:
        """The origin of another site's page that asks and may, as config names it."""
        origins = request.headers.getall(hdrs.ORIGIN, ())
        return origins[0] if len(origins) == 1 and origins[0].lower() in self._guests else None

    def preflight_response(self, request: web.Request, allowed: str) -> web.Response | None:
        """The answer to a preflight of a guest, which has no token yet (Fetch standard, 4.8); None: it is none."""
        if request.method != "OPTIONS" or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return None
        if self.cors_origin(request) is None:
            return None
        headers = {
            "Access-Control-Allow-Methods": allowed,
            "Access-Control-Allow-Headers": _MAY_SEND,
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=headers)

    def cors_headers(self, request: web.Request) -> dict[str, str]:
        """The headers by which a guest's page may read the answer."""
        if not self._guests:
            return {}
        origin = self.cors_origin(request)
        if origin is None:
            return {"Vary": "Origin"}
        readable = {"Access-Control-Expose-Headers": _MAY_READ, "Vary": "Origin"}
        return {"Access-Control-Allow-Origin": origin, **readable}

    def client_endpoint(self, request: web.Request) -> str:
        """Where it came from, for the log: with the port, unless a proxy passes it on."""
        peer = _peer(request)
        client = self.client_address(request)
        if peer is None or client != _address(peer[0]):
            return client
        return f"[{client}]:{peer[1]}" if ":" in client else f"{client}:{peer[1]}"

    def client_address(self, request: web.Request) -> str:
        """The address that it came from: the other end's, or what a proxy that config names says it was; `unix`."""
        peer = _peer(request)
        if peer is None:
            return "unix"
        address = _address(peer[0])
        if not self._is_proxy(address):
            return address
        # Each proxy appends whom it heard: what stands left of the first stranger was said by that stranger.
        for client in reversed(", ".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
            heard = _address(client.strip())
            address = heard or address
            # What cannot be read (`unknown`, `unix:`) is a stranger too: then no more is known than who told it.
            if not heard or not self._is_proxy(heard):
                break
        return address

    def _is_proxy(self, address: str) -> bool:
        try:
            return any(ipaddress.ip_address(address) in network for network in self._proxies)
        except ValueError:
            return False

    def _named(self, scheme: str, port: int | None) -> frozenset[str]:
        found = {origin.partition("://")[2] for origin in self._origins}
        for name in self._names:
            if _has_port(name):
                found.add(name)
            else:
                if port is None or port == _DEFAULT_PORTS[scheme]:
                    found.add(name)
                if port is not None:
                    found.add(f"{name}:{port}")
        return frozenset(found)


def is_forwarded(request: web.Request) -> bool:
    """Whether some proxy says that it passes this on for another."""
    headers = request.headers
    return any(name in headers for name in FORWARDED) or any(
        name.lower().startswith(_FORWARDED_PREFIX) for name in headers
    )


def is_unix_socket(request: web.Request) -> bool:
    """Whether it came by a Unix socket."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    return connection is not None and connection.family == socket.AF_UNIX


def local_port(request: web.Request) -> int | None:
    """The port that it came to; a Unix socket has none."""
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    own: Any = request.transport.get_extra_info("sockname")
    return own[1] if isinstance(own, tuple) else None


def _peer(request: web.Request) -> tuple[str, int] | None:
    """The address and port at the other end; None: a Unix socket."""
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    return (peer[0], peer[1]) if isinstance(peer, tuple) else None


def _has_port(name: str) -> bool:
    return ":" in name.rpartition("]")[2]


@lru_cache(256)
def _address(text: str) -> str:
    """The address in its usual spelling, IPv4 as such also where IPv6 maps it; `""` if it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
