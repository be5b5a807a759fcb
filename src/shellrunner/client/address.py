"""Where a server is: `http://…`, `https://…`, or `unix:/PATH` of its socket.

A value, made from what a person wrote. Must not know requests.
"""

import re
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

_UNIX: Final = re.compile(r"unix:(?://(?=/))?(/.+)")
_DEFAULT_SCHEME: Final = "http"


class ServerAddress(NamedTuple):
    """`base` begins every URL; with `socket`, the connection goes there and `base` names only the Host."""

    base: str
    socket: str | None = None

    def __str__(self) -> str:
        """As a person would write it."""
        return f"unix:{self.socket}" if self.socket else self.base

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a person wrote; without a scheme it is http.

        Raises:
            ValueError: it names no place.
        """
        if text.startswith("unix:"):
            path = _UNIX.fullmatch(text)
            if path is None:
                raise ValueError(f"{text!r} is no place: after unix: comes the absolute path of a socket")
            return cls("http://localhost", path[1])
        parts = urlsplit(text if "://" in text else f"{_DEFAULT_SCHEME}://{text}")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError(f"{text!r} is no place: it must be http://HOST:PORT, https://HOST or unix:/PATH")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("a server's URL has no user, password, query or fragment: a token is given by itself")
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}")
