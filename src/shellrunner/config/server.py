"""Settings of `[server]`: addresses, names, origins, TLS and limits of the HTTP server.

Validated by `config.load`. Must not know how a connection is served.
"""

import ipaddress
import re
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from shellrunner import ascii_text
from shellrunner.config.types import CredentialPath, Section, authority, network

_UNIX: Final = "unix:"
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]/]+)):([0-9]{1,5})")


class Address(NamedTuple):
    """An address to listen on: a host and a port, or the absolute path of a Unix socket.

    The host `localhost` is both 127.0.0.1 and ::1, at one port.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_private(self) -> bool:
        """Return whether only processes of this machine can connect."""
        return bool(self.path) or self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback


def _bind_address(text: str) -> str:
    try:
        return text if text == "localhost" else str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be localhost or an IP address") from None


def _listen_address(text: str) -> str:
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/") or len(path.encode()) > 107:  # unix(7)
            raise ValueError("must be unix:PATH with an absolute path of at most 107 bytes")
        return text
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65_535:
        raise ValueError("must be unix:/PATH, ADDRESS:PORT or [ADDRESS]:PORT")
    _bind_address(match[1] or match[2])
    return text


def _origin(text: str) -> str:
    match = re.fullmatch(r"https?://(.+)", ascii_text.lower(text))
    if match is None:
        raise ValueError("must be an origin as browsers send it: https://NAME or https://NAME:PORT")
    authority(match[1])
    return ascii_text.lower(text)


def _mode(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError('must be three octal digits, such as "0660"')
    return text


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


ListenAddresses = Annotated[list[Annotated[str, AfterValidator(_listen_address)]], BeforeValidator(_as_list)]


class ServerSettings(Section):
    """The HTTP server."""

    host: Annotated[str, AfterValidator(_bind_address)] = Field(
        "localhost",
        description="address to listen on: localhost (or 127.0.0.1) for both 127.0.0.1 and ::1, or an IP address; "
        "without tokens a loopback address",
    )
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0: a free port chosen by the kernel")
    listen: ListenAddresses = Field(
        default_factory=list, description="addresses to listen on; overrides host and port"
    )
    socket_mode: Annotated[str, AfterValidator(_mode)] = Field("0600", description="permissions of Unix sockets")
    names: list[Annotated[str, AfterValidator(authority)]] = Field(
        ["localhost", "127.0.0.1", "[::1]"],
        description="accepted hosts of the Host header; one of this machine only if the server listens on every "
        "loopback address that it means",
    )
    origins: list[Annotated[str, AfterValidator(_origin)]] = Field(
        default_factory=list, description="origins of this server as browsers see them behind a proxy"
    )
    cors_origins: list[Annotated[str, AfterValidator(_origin)]] = Field(
        default_factory=list, description="origins of other sites whose pages may use the API with a token"
    )
    proxies: list[Annotated[str, AfterValidator(network)]] = Field(
        default_factory=list, description="proxies whose X-Forwarded-For is trusted"
    )
    tls_cert: CredentialPath | None = Field(
        None, description="PEM file with the whole certificate chain, or the name of a credential"
    )
    tls_key: CredentialPath | None = Field(
        None, description="PEM file with the private key, or the name of a credential; with it, only TLS 1.3"
    )
    max_connections: int = Field(1000, ge=1, description="maximum number of open connections")
    max_unauthenticated: int | None = Field(
        None,
        ge=1,
        description="maximum number of those on which nobody was authenticated yet; default: a quarter",
    )
    max_unauthenticated_per_source: int = Field(
        20, ge=1, description="maximum number of those of one address, IPv6 /64 or local user, but for proxies"
    )
    max_streams: int = Field(100, ge=1, description="maximum number of open streams of one token or user")

    @field_validator("tls_key")
    @classmethod
    def _require_both(cls, key: Any, before: ValidationInfo) -> Any:
        if "tls_cert" in before.data and (key is None) != (before.data["tls_cert"] is None):
            raise ValueError("tls_cert and tls_key must be set together")
        return key

    @property
    def unauthenticated_share(self) -> int:
        """How many connections there may be on which nobody was authenticated yet."""
        return min(self.max_connections, self.max_unauthenticated or max(1, self.max_connections // 4))

    @property
    def addresses(self) -> list[Address]:
        """Return the addresses to listen on."""
        # The usual address is reached as `localhost` too, so it is both; `listen` can name it alone.
        host = "localhost" if self.host == "127.0.0.1" else self.host
        return [parse_address(text) for text in self.listen] or [Address(host, self.port)]


def parse_address(text: str) -> Address:
    """Return the address that a valid text of `ListenAddresses` means."""
    if text.startswith(_UNIX):
        return Address(path=text.removeprefix(_UNIX))
    name, _, port = text.rpartition(":")
    return Address(_bind_address(name.strip("[]")), int(port))
