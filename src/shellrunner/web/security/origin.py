"""Checks of Host, Origin and Sec-Fetch-Site, CORS, trusted proxies, and the client's address.

Used by the security middleware. All checks allow by name: what is not named is rejected. Must not know tokens or
resources.
"""

import ipaddress
from functools import lru_cache
from typing import Any, Final

from aiohttp import hdrs, web

from shellrunner import ascii_text
from shellrunner.config import ServerSettings
from shellrunner.web.http import problems
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.security.loopback import DEFAULT_PORTS, BoundAddresses, split_port
from shellrunner.web.security.proxy_marks import has_mark

_FETCH_SITE: Final = "Sec-Fetch-Site"
# Headers that a page of another site may send and read, if server.cors_origins has its origin.
_CORS_REQUEST_HEADERS: Final = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer, Range"
)
_CORS_RESPONSE_HEADERS: Final = "Content-Location, ETag, Link, Location, Preference-Applied, Retry-After"


class OriginPolicy:
    """The names of this server, and the origins whose pages may send requests to it."""

    def __init__(self, server: ServerSettings, bound_addresses: BoundAddresses) -> None:
        self._names = tuple(map(split_port, server.names))
        self._bound = bound_addresses
        self._origins = frozenset(filter(bound_addresses.accept_origin, server.origins))
        self._cors_origins = frozenset(server.cors_origins)
        self._proxies = tuple(ipaddress.ip_network(proxy) for proxy in server.proxies)
        self._accepted_hosts = lru_cache(64)(self._find_accepted_hosts)

    def check_host(self, request: web.Request) -> None:
        """Require one `Host` that names this server.

        Raises:
            HttpProblem: it names another, or there is none, or more than one.
        """
        hosts = request.headers.getall(hdrs.HOST, ())
        accepted = self._accepted_hosts(request.scheme, local_port(request))
        if len(hosts) != 1 or ascii_text.lower(hosts[0]) not in accepted:
            raise problems.wrong_host()

    def check_origin(self, request: web.Request) -> None:
        """Reject requests that come from a page of another site, unless the configuration names its origin.

        Raises:
            HttpProblem: it comes from one.
        """
        headers = request.headers
        if self.cors_origin(request) is not None:
            return
        if hdrs.ORIGIN in headers:
            own = f"{request.scheme}://{ascii_text.lower(headers[hdrs.HOST])}"
            for origin in headers.getall(hdrs.ORIGIN):
                if ascii_text.lower(origin) not in {own, *self._origins}:
                    raise HttpProblem("cross-site", f"requests from the origin {origin!r} are not allowed")
        if _FETCH_SITE in headers:
            sites = {ascii_text.lower(ascii_text.strip_blanks(site)) for site in headers.getall(_FETCH_SITE)}
            if not sites <= {"same-origin", "none"}:
                raise HttpProblem("cross-site", "requests from pages of other sites are not allowed (Sec-Fetch-Site)")

    def cors_origin(self, request: web.Request) -> str | None:
        """Return the request's origin, if it is one of server.cors_origins."""
        origins = request.headers.getall(hdrs.ORIGIN, ())
        return origins[0] if len(origins) == 1 and ascii_text.lower(origins[0]) in self._cors_origins else None

    def preflight_response(self, request: web.Request, allowed: str) -> web.Response | None:
        """Return the response to a CORS preflight request, which has no token (Fetch, 4.8); None if it is not one."""
        if request.method != "OPTIONS" or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return None
        if self.cors_origin(request) is None:
            return None
        headers = {
            "Access-Control-Allow-Methods": allowed,
            "Access-Control-Allow-Headers": _CORS_REQUEST_HEADERS,
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=headers)

    def cors_headers(self, request: web.Request) -> dict[str, str]:
        """Return the headers that let a page of an allowed origin read the response."""
        if not self._cors_origins:
            return {}
        origin = self.cors_origin(request)
        if origin is None:
            return {"Vary": "Origin"}
        readable = {"Access-Control-Expose-Headers": _CORS_RESPONSE_HEADERS, "Vary": "Origin"}
        return {"Access-Control-Allow-Origin": origin, **readable}

    def client_endpoint(self, request: web.Request) -> str:
        """Return the client's address for the log, with its port unless a proxy forwarded the request."""
        peer = _peer(request)
        client = self.client_address(request)
        if peer is None or client != _address(peer[0]):
            return client
        return f"[{client}]:{peer[1]}" if ":" in client else f"{client}:{peer[1]}"

    def client_address(self, request: web.Request) -> str:
        """Return the client's address: the peer's, or what a trusted proxy reports; `unix` for a Unix socket."""
        return self._trace_client(request)[0]

    def certain_address(self, request: web.Request) -> str | None:
        """Return the client's address if it is certain, else None: only a proxy that is not trusted may know it."""
        address, is_reported = self._trace_client(request)
        return address if is_reported or not has_mark(request.headers) else None

    def _trace_client(self, request: web.Request) -> tuple[str, bool]:
        """Return the client's address, and whether trusted proxies have reported all of the way to it."""
        peer = _peer(request)
        if peer is None:
            return "unix", False
        address, is_reported = _address(peer[0]), False
        if not self._is_proxy(address):
            return address, False
        # Each proxy appends the address of its peer: what stands left of the first untrusted one is that one's claim.
        for client in reversed(", ".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
            reported = _address(ascii_text.strip_blanks(client))
            address, is_reported = reported or address, bool(reported)
            # What cannot be parsed (`unknown`, `unix:`) is untrusted too: then the proxy that reported it counts.
            if not reported or not self._is_proxy(reported):
                break
        return address, is_reported

    def _is_proxy(self, address: str) -> bool:
        try:
            return any(ipaddress.ip_address(address) in network for network in self._proxies)
        except ValueError:
            return False

    def _find_accepted_hosts(self, scheme: str, port: int | None) -> frozenset[str]:
        found = {origin.partition("://")[2] for origin in self._origins}
        for name, own_port in self._names:
            if own_port is not None:
                if self._bound.cover(name, own_port):
                    found.add(f"{name}:{own_port}")
            elif port is None:
                found.add(name)  # whose server it is, the path of the Unix socket says
            elif self._bound.cover(name, port):
                found |= {f"{name}:{port}", *([name] if port == DEFAULT_PORTS[scheme] else [])}
        return frozenset(found)


def local_port(request: web.Request) -> int | None:
    """Return the port that the request came to; None for a Unix socket.

    Raises:
        ConnectionError: the client has disconnected.
    """
    if request.transport is None:
        raise ConnectionResetError("the client has disconnected")
    own: Any = request.transport.get_extra_info("sockname")
    return own[1] if isinstance(own, tuple) else None


def _peer(request: web.Request) -> tuple[str, int] | None:
    """Return the peer's address and port; None for a Unix socket."""
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    return (peer[0], peer[1]) if isinstance(peer, tuple) else None


@lru_cache(256)
def _address(text: str) -> str:
    """Return an address in its canonical form, with IPv4-mapped IPv6 as IPv4; empty if it is not one."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
