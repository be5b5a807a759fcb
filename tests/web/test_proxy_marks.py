"""The headers that show a proxy: with one of them, the uid of the process at the other end lets nobody in."""

import re
from pathlib import Path

import pytest

from shellrunner.web.security.proxy_marks import PROXY_MARKS, has_mark
from tests.support.site import Site

GUIDE = Path(__file__).parent.parent.parent / "docs/how-to/reverse-proxy.md"
MARKS = """
    CF-Connecting-IP CF-Connecting-IPv6 CF-RAY CF-Visitor CDN-Loop True-Client-IP Fastly-Client-IP Fly-Client-IP
    X-Client-IP X-Cluster-Client-IP X-Real-IP X-Forwarded X-Forwarded-For X-Forwarded-Host X-Forwarded-Prefix
    X-Forwarded-Client-Cert Forwarded Forwarded-For Via X-Original-URL X-Original-URI X-Original-Forwarded-For
    X-Rewrite-URL X-Azure-ClientIP X-Azure-SocketIP X-Azure-FDID Tailscale-User-Login Tailscale-User-Name
    X-Envoy-External-Address X-Envoy-Internal X-Appengine-User-IP X-Amzn-Trace-Id X-Arr-Log-Id X-Accel-Internal
    Client-IP X-ProxyUser-Ip WL-Proxy-Client-IP Proxy-Client-IP X-Remote-Addr Remote-User DO-Connecting-IP
    CloudFront-Viewer-Address Ali-CDN-Real-IP Incap-Client-IP x-vercel-forwarded-for ngrok-auth-user-email
    X_Forwarded_For cf_connecting_ip CLIENT-CERT
"""
# What clients send to a server directly.
OWN = """
    Host User-Agent Accept Accept-Encoding Accept-Language Authorization Connection Content-Type Content-Length
    Cookie Origin Referer Sec-Fetch-Site Sec-Fetch-Mode Sec-CH-UA Priority Idempotency-Key Prefer Last-Event-ID
    If-Match If-None-Match Range Traceparent Tracestate Baggage X-Request-ID X-Requested-With
    X-HTTP-Method-Override DNT Upgrade-Insecure-Requests Cache-Control Pragma Date From TE Expect Upgrade
    Save-Data
"""


def test_the_marks_of_proxies_are_known_and_nothing_else_is() -> None:
    """What proxies add is a mark in any case; what clients send is none."""
    known = [
        name for name in MARKS.split() if not all(has_mark([each]) for each in (name, name.lower(), name.upper()))
    ]
    assert known == []
    assert [name for name in OWN.split() if has_mark([name])] == []
    assert not has_mark([])
    assert has_mark([*OWN.split(), "Via"])


@pytest.mark.parametrize("name", ["X-Client-IP", "CF-Ray", "X-Original-URL", "Tailscale-User-Login", "x_real_ip"])
async def test_a_mark_hides_the_uid(site: Site, name: str) -> None:
    """A request with a mark is 403 without tokens, whatever the mark says, and even if it says nothing."""
    for value in ("127.0.0.1", ""):
        assert (await site.get("/api", headers={name: value})).status == 403
    assert (await site.get("/healthz", headers={name: "127.0.0.1"})).status == 200


def test_the_guide_has_every_mark() -> None:
    """The guide to proxies lists the marks, and no other."""
    listed = GUIDE.read_text().partition("## Marks of a proxy")[2]
    marks = re.findall(r"`([a-z-]+)\*?`", listed.partition("\n\n")[2].partition(".\n\n")[2].partition(".\n")[0])
    assert marks == [*PROXY_MARKS]
