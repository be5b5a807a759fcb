"""One try to deliver a callback: a POST, and a text that says why it failed.

Used by `sender`. The text is shown to everybody who may read the job, so it contains no part of the URL but the host,
which is in the configuration. Must not know schedules or the store.
"""

import os
import ssl
from collections.abc import Mapping
from typing import Final

import aiohttp
from yarl import URL

TIMEOUT: Final = 10.0  # seconds for a whole try
_MAX_BUFFERED: Final = 1 << 12  # bytes of a response; its body is never read

# The first match. aiohttp's own texts often contain the URL.
_ERRORS: Final[tuple[tuple[type[Exception], str], ...]] = (
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


def session(timeout: float) -> aiohttp.ClientSession:
    """Return a session for all tries, without cookies, and without settings from the environment."""
    return aiohttp.ClientSession(
        # Each try opens a connection: one that was kept open may be dead, and a POST is not sent twice.
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding",),
        timeout=aiohttp.ClientTimeout(total=timeout),
        read_bufsize=_MAX_BUFFERED,
        trust_env=False,
    )


async def deliver(
    client: aiohttp.ClientSession, url: str, host: str, body: bytes, headers: Mapping[str, str]
) -> str | None:
    """POST the body; return None if it was accepted (2xx), else why not. Redirects are not followed."""
    try:
        # Not normalized: part of the URL may be signed.
        response = await client.post(URL(url, encoded=True), data=body, headers=headers, allow_redirects=False)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return _describe(error, host, client.timeout.total)
    response.close()
    if 200 <= response.status < 300:
        return None
    redirected = ", a redirect, which is not followed" if 300 <= response.status < 400 else ""
    return f"{host} answered {response.status}{redirected}"


def _describe(error: Exception, host: str, timeout: float | None) -> str:
    text = next((text for kind, text in _ERRORS if isinstance(error, kind)), _DISCONNECTED)
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else "none of its addresses answers"
    return text.format(host=host, timeout=timeout, reason=reason)
