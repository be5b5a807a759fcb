"""Sessions: cookies that let a browser watch jobs for a while, on behalf of a token.

Read by every package. Must not know SQL, HTTP, asyncio or the configuration.
"""

from typing import NamedTuple

from shellrunner.clock import Millis


class Session(NamedTuple):
    """A session, identified by `digest`, the SHA-256 of the cookie's value; valid until `expires`.

    `token` is the hash of the token that began it.
    """

    digest: bytes
    token: str
    expires: Millis
