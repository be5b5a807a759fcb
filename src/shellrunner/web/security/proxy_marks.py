"""The headers by which a request shows that it came through a proxy.

Then the process at the other end of the connection is the proxy, and its uid says nothing about the client. The list
has what proxies, load balancers, content delivery networks, tunnels and application gateways add by themselves, and
none that a client sends to a server directly. Must not know what follows from a mark.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from shellrunner import ascii_text

# In lower case. What ends with "-" stands for all names that begin so.
PROXY_MARKS: Final = (
    # RFC 7239, 9110, 9440, 8586, 8470
    "forwarded", "via", "max-forwards", "proxy-authorization", "proxy-connection", "client-cert", "client-cert-chain",
    "cdn-loop", "early-data",
    # proxies of many kinds, by custom
    "x-forwarded", "x-forwarded-", "x-forward-for", "x-forwarder-for", "forwarded-for", "forwarded-for-ip", "x-real-",
    "x-client-ip", "x-client-port", "client-ip", "x-cluster-client-ip", "cluster-client-ip", "x-proxied-for",
    "x-proxy-", "proxy-client-ip", "x-proxyuser-ip", "true-client-ip", "x-true-client-ip", "x-source-ip",
    "x-originating-ip",
    "x-remote-ip", "x-remote-addr", "x-remote-user", "remote-addr", "remote-user", "x-coming-from", "x-connecting-ip",
    # the request as it was before a proxy changed it
    "x-original-", "x-rewrite-", "x-host", "x-http-host-override", "x-scheme", "x-url-scheme", "front-end-https",
    # delivery networks: Cloudflare, Akamai, Fastly, Varnish, CloudFront, Alibaba, Sucuri, Imperva
    "cf-", "akamai-", "x-akamai-", "fastly-", "x-varnish", "surrogate-capability", "cloudfront-", "x-amz-cf-",
    "ali-cdn-", "ali-swift-", "eagleeye-", "x-cdn", "x-cdn-", "x-sucuri-", "incap-client-ip", "x-iinfo",
    # load balancers of AWS, Google, Azure, DigitalOcean
    "x-amzn-", "x-cloud-trace-context", "x-appengine-", "x-goog-authenticated-", "x-goog-iap-", "x-azure-", "x-fd-",
    "x-arr-", "x-appgw-", "x-ms-client-principal", "x-ms-client-principal-", "do-connecting-ip",
    # platforms: Fly, Heroku, Netlify, Vercel
    "fly-", "x-heroku-", "x-nf-", "x-vercel-", "x-request-start", "x-queue-start",
    # Envoy, nginx, Kong, HAProxy, LiteSpeed, WebLogic, BlueCoat, iisnode, and proxies that authenticate
    "x-envoy-", "x-accel-", "x-kong-", "x-haproxy-", "x-litespeed-", "wl-proxy-", "x-wl-proxy-", "x-bluecoat-",
    "x-iisnode-", "x-auth-request-", "x-authentik-", "x-ssl-", "ssl-client-", "x-client-cert", "x-client-dn",
    # tunnels and private networks
    "tailscale-", "ngrok-", "x-ngrok-",
)  # fmt: skip
_NAMES: Final = frozenset(name for name in PROXY_MARKS if not name.endswith("-"))
_PREFIXES: Final = tuple(name for name in PROXY_MARKS if name.endswith("-"))


def has_mark(names: Iterable[str]) -> bool:
    """Return whether one of these names of headers is a mark of a proxy."""
    return any(map(_is_mark, names))


@lru_cache(512)
def _is_mark(name: str) -> bool:
    lower = ascii_text.lower(name).replace("_", "-")  # as an application behind CGI or WSGI would read it
    return lower in _NAMES or lower.startswith(_PREFIXES)
