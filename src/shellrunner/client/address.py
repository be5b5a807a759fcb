"""The address of a server: `http://…`, `https://…`, or `unix:/PATH` of its socket.

An immutable value, parsed from user input. Must not know requests.
"""

import re
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

_UNIX: Final = re.compile(r"unix:(?://(?=/))?(/.+)")
_LOOPBACK: Final = re.compile(r"127(?:\.[0-9]{1,3}){3}", re.ASCII)
_DEFAULT_SCHEME: Final = "http"


class ServerAddress(NamedTuple):
    """`base` begins every URL; with `socket`, connections go to that path and `base` supplies only the Host."""

    base: str
    socket: str | None = None

    def __str__(self) -> str:
        """Return the address in the form that users write."""
        return f"unix:{self.socket}" if self.socket else self.base

    @property
    def is_localhost(self) -> bool:
        """Whether it is a name that means this machine (RFC 6761)."""
        name = (urlsplit(self.base).hostname or "").rstrip(".")
        return self.socket is None and (name == "localhost" or name.endswith(".localhost"))

    @property
    def is_loopback(self) -> bool:
        """Whether it leads to this machine whatever a name server says: a Unix socket, or loopback."""
        name = urlsplit(self.base).hostname or ""
        return self.socket is not None or self.is_localhost or name == "::1" or bool(_LOOPBACK.fullmatch(name))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address; the default scheme is http.

        Raises:
            ValueError: `text` is not a server address.
        """
        if text.startswith("unix:"):
            path = _UNIX.fullmatch(text)
            if path is None:
                raise ValueError(f"invalid server address {text!r}: expected unix: and the absolute path of a socket")
            return cls("http://localhost", path[1])
        parts = _split(text)
        if parts.username or parts.password or parts.query or parts.fragment:
            # The text may contain a password, so it is not quoted.
            raise ValueError(
                "invalid server address: remove user, password, query and fragment (a token is configured separately)"
            )
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}")


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text if "://" in text else f"{_DEFAULT_SCHEME}://{text}")
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # the port is not a number, or the brackets of an IPv6 address do not match
        pass
    raise ValueError(f"invalid server address {text!r}: expected http://HOST:PORT, https://HOST or unix:/PATH")
