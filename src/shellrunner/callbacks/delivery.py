"""One try: a POST, and in plain words what came of it.

Used by `caller`. The words are shown to whoever may read the job, so they hold no part of the URL but its host, which
config names. Must not know schedules or the store.
"""

import os
import ssl
from collections.abc import Mapping
from typing import Final

import aiohttp
from yarl import URL

PATIENCE: Final = 10.0  # seconds for a whole try
_MOST_OF_AN_ANSWER: Final = 1 << 12  # bytes that are taken in before anything is read of it; nothing is

# The first that fits. aiohttp's own words often have the URL in them.
_WORDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (TimeoutError, "{host} did not answer within {patience:g} s"),
    (aiohttp.ClientConnectorDNSError, "{host} was not found"),
    (aiohttp.ClientConnectorCertificateError, "the certificate of {host} is not trusted"),
    (aiohttp.ClientSSLError, "{host} does not speak TLS as it should"),
    (ssl.SSLError, "{host} does not speak TLS as it should"),
    (aiohttp.ClientConnectorError, "{host} cannot be reached: {reason}"),
    (aiohttp.ClientResponseError, "{host} answered what is not HTTP"),
    (ValueError, "{host} is no address that can be called"),  # a label that is empty or too long
)
_LOST: Final = "{host} ended the connection before it answered"


def session(patience: float) -> aiohttp.ClientSession:
    """What all tries have in common: nothing is remembered, and nothing is taken from the environment."""
    return aiohttp.ClientSession(
        # Each try has a connection of its own: one that was left open may be dead, and a POST is not sent twice.
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding",),
        timeout=aiohttp.ClientTimeout(total=patience),
        read_bufsize=_MOST_OF_AN_ANSWER,
        trust_env=False,
    )


async def deliver(
    client: aiohttp.ClientSession, url: str, host: str, body: bytes, headers: Mapping[str, str]
) -> str | None:
    """Send the body; None if it was taken (2xx), else why not. Redirects are answers like others."""
    try:
        # Not a character of it is changed: part of it may be signed.
        response = await client.post(URL(url, encoded=True), data=body, headers=headers, allow_redirects=False)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return _words(error, host, client.timeout.total)
    response.close()
    if 200 <= response.status < 300:
        return None
    redirected = ", a redirect, which is not followed" if 300 <= response.status < 400 else ""
    return f"{host} answered {response.status}{redirected}"


def _words(error: Exception, host: str, patience: float | None) -> str:
    words = next((words for kind, words in _WORDS if isinstance(error, kind)), _LOST)
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else "none of its addresses answers"
    return words.format(host=host, patience=patience, reason=reason)
