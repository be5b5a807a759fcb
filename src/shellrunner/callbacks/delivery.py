"""One try to deliver a callback: a POST, and a text that says why it failed.

Used by `sender`. The text is shown to everybody who may read the job, so it contains no part of the URL but the host,
which is in the configuration. Must not know schedules or the store.
"""

import logging
import os
import socket
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from shellrunner.callbacks.addresses import AddressPolicy, IpAddress

log = logging.getLogger("shellrunner.callbacks")

TIMEOUT: Final = 10.0  # seconds for a whole try
_MAX_BUFFERED: Final = 1 << 12  # bytes of a response; its body is never read


class ForbiddenAddress(Exception):
    """The host has no address to which callbacks may be sent."""


# The first match. aiohttp's own texts often contain the URL.
_ERRORS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (ForbiddenAddress, "{host} has only private or other special addresses, which callbacks.networks does not name"),
    (TimeoutError, "{host} did not answer within {timeout:g} s"),
    (aiohttp.ClientConnectorDNSError, "{host} was not found"),
    (aiohttp.ClientConnectorCertificateError, "the certificate of {host} is not trusted"),
    (aiohttp.ClientSSLError, "{host} failed the TLS handshake"),
    (ssl.SSLError, "{host} failed the TLS handshake"),
    (aiohttp.ClientConnectorError, "cannot connect to {host}: {reason}"),
    (aiohttp.ClientResponseError, "{host} sent a response that is not valid HTTP"),
    (ValueError, "{host} is not a valid host name"),  # a label is empty or too long
)
_DISCONNECTED: Final = "{host} closed the connection without an answer"


class DeliveryOptions(NamedTuple):
    """How tries reach their hosts: by which addresses, with which authorities, and within how many seconds."""

    policy: AddressPolicy
    resolver: AbstractResolver
    tls: ssl.SSLContext
    timeout: float = TIMEOUT


class _CheckedResolver(AbstractResolver):
    """Resolves the host of one try, once, to the addresses that it may have; only these are connected to."""

    def __init__(self, host: str, options: DeliveryOptions) -> None:
        self._host, self._options = host, options

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the allowed addresses.

        Raises:
            ForbiddenAddress: there is none.
        """
        found = await self._options.resolver.resolve(host, port, family)
        allowed = [each for each in found if self._allows(ip_address(each["host"]))]
        if not allowed:
            raise ForbiddenAddress
        return allowed

    def _allows(self, address: IpAddress) -> bool:
        if self._options.policy.allows(self._host, address):
            return True
        # Not in the job's error, whose readers need not learn the addresses of a network.
        log.warning("callback address refused", extra={"host": self._host, "address": str(address)})
        return False

    async def close(self) -> None:
        """Leave the shared resolver open."""


async def deliver(
    options: DeliveryOptions, url: str, host: str, body: bytes, headers: Mapping[str, str]
) -> str | None:
    """POST the body; return None if it was accepted (2xx), else why not. Redirects are not followed.

    `host` is that of the URL, and the configuration names it.
    """
    try:
        async with _session(host, options) as client:
            # Not normalized: part of the URL may be signed.
            response = await client.post(URL(url, encoded=True), data=body, headers=headers, allow_redirects=False)
            response.close()
    except (aiohttp.ClientError, OSError, ValueError, ForbiddenAddress) as error:
        return _describe(error, host, options.timeout)
    if 200 <= response.status < 300:
        return None
    redirected = ", a redirect, which is not followed" if 300 <= response.status < 400 else ""
    return f"{host} answered {response.status}{redirected}"


def _session(host: str, options: DeliveryOptions) -> aiohttp.ClientSession:
    """Return a session for one try, without cookies, and without settings from the environment."""
    # Each try opens a connection: one that was kept open may be dead, and a POST is not sent twice. aiohttp does not
    # resolve a host that is an address; the configuration names that.
    resolver = _CheckedResolver(host, options)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, force_close=True, resolver=resolver, use_dns_cache=False, ssl=options.tls
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding",),
        timeout=aiohttp.ClientTimeout(total=options.timeout),
        read_bufsize=_MAX_BUFFERED,
        trust_env=False,
    )


def _describe(error: Exception, host: str, timeout: float) -> str:
    text = next((text for kind, text in _ERRORS if isinstance(error, kind)), _DISCONNECTED)
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else "none of its addresses answers"
    return text.format(host=host, timeout=timeout, reason=reason)
