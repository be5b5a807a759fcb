"""What a session is: a cookie that lets a browser watch for a while, in the name of a token.

Read by everybody. Must not know SQL, HTTP, asyncio or config.
"""

from typing import NamedTuple

from shellrunner.clock import Millis


class Session(NamedTuple):
    """`digest` is the SHA-256 of the cookie's value, `token` that of the token, in hex; it is over at `expires`."""

    digest: bytes
    token: str
    expires: Millis
