"""Where requests come in, and for whom: addresses, names, TLS, and how many at once."""

import ipaddress
import re
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from shellrunner.config.types import AbsolutePath, Section, authority

_UNIX: Final = "unix:"
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]/]+)):([0-9]{1,5})")


class Address(NamedTuple):
    """Where to listen: a host and a port, or the absolute path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_private(self) -> bool:
        """Whether only processes of this machine can get there."""
        return bool(self.path) or self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback


def _bindable(text: str) -> str:
    try:
        return text if text == "localhost" else str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be localhost or an IP address") from None


def _listen(text: str) -> str:
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/") or len(path.encode()) > 107:  # unix(7)
            raise ValueError("must be unix: and an absolute path of at most 107 bytes")
        return text
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65_535:
        raise ValueError("must be unix:/PATH, ADDRESS:PORT or [ADDRESS]:PORT")
    _bindable(match[1] or match[2])
    return text


def _origin(text: str) -> str:
    match = re.fullmatch(r"https?://(.+)", text.lower())
    if match is None:
        raise ValueError("must be an origin as browsers send it: https://NAME, with its port if it has one")
    authority(match[1])
    return text.lower()


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError("must be an IP address or a network, as 10.0.0.0/8") from None


def _mode(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError('must be three octal digits, as "0660"')
    return text


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ServerSettings(Section):
    """Where requests come in, and for whom."""

    host: Annotated[str, AfterValidator(_bindable)] = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0: any free port")
    listen: Annotated[list[Annotated[str, AfterValidator(_listen)]], BeforeValidator(_listed)] = Field(
        default_factory=list, description="instead of host and port"
    )
    socket_mode: Annotated[str, AfterValidator(_mode)] = Field("0600", description="who may connect to a Unix socket")
    names: list[Annotated[str, AfterValidator(authority)]] = Field(
        ["localhost", "127.0.0.1", "[::1]"], description="what Host may be; without a port: the one listened on"
    )
    origins: list[Annotated[str, AfterValidator(_origin)]] = Field(
        default_factory=list, description="what browsers call this server when they come through a proxy"
    )
    cors_origins: list[Annotated[str, AfterValidator(_origin)]] = Field(
        default_factory=list, description="other sites whose pages may use the API, with a token"
    )
    proxies: list[Annotated[str, AfterValidator(_network)]] = Field(
        default_factory=list, description="whose X-Forwarded-For is believed"
    )
    tls_cert: AbsolutePath | None = Field(None, description="PEM, the whole chain")
    tls_key: AbsolutePath | None = None
    max_connections: int = Field(1000, ge=1)
    max_streams: int = Field(100, ge=1, description="per identity")

    @field_validator("tls_key")
    @classmethod
    def _both(cls, key: Any, before: ValidationInfo) -> Any:
        if "tls_cert" in before.data and (key is None) != (before.data["tls_cert"] is None):
            raise ValueError("tls_cert and tls_key go together")
        return key

    @property
    def addresses(self) -> list[Address]:
        """Where to listen."""
        return [_address(text) for text in self.listen] or [Address(self.host, self.port)]


def _address(text: str) -> Address:
    if text.startswith(_UNIX):
        return Address(path=text.removeprefix(_UNIX))
    name, _, port = text.rpartition(":")
    return Address(_bindable(name.strip("[]")), int(port))
