"""Types and validators of settings, shared by the sections. Must not know which setting uses them."""

import hashlib
import ipaddress
import os
import re
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shellrunner import ascii_text


class Section(BaseModel):
    """A table of settings: frozen, and unknown keys are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


def absolute(path: Path) -> Path:
    """Require an absolute path without NUL: a relative one would depend on the directory of the start."""
    if "\0" in str(path):
        raise ValueError("must not contain NUL")
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def credential(path: Path) -> Path:
    """Require an absolute path, or the name of a credential of the unit (LoadCredential= in systemd.exec(5))."""
    if path.is_absolute() or str(path) != path.name or str(path) in {"", ".", ".."}:
        return absolute(path)
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory.startswith("/"):
        raise ValueError(
            f"must be an absolute path; as the name of a credential it needs LoadCredential={path}:PATH in the unit, "
            "and $CREDENTIALS_DIRECTORY is not set"
        )
    return absolute(Path(directory, path))


def encodable(text: str) -> str:
    """Require text that can be sent to a keeper as UTF-8 and passed to execve(2): no NUL, no lone surrogates."""
    if "\0" in text:
        raise ValueError("must not contain NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    return text


# TOML has no null. Zero is read as "no limit" because the other reading, "keep nothing", would delete the history.
ZERO_IS_NONE: Final = AfterValidator(lambda number: number or None)
AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(absolute)]
_MAPPED_BITS: Final = 96  # of the prefix ::ffff:0:0/96 (RFC 4291, 2.5.5.2)
CredentialPath = Annotated[Path, Field(strict=False), AfterValidator(credential)]
EncodablePath = Annotated[AbsolutePath, AfterValidator(lambda path: Path(encodable(str(path))))]


def authority(text: str) -> str:
    """Require the authority of a URL (RFC 3986, section 3.2): a host, optionally with a port."""
    match = re.fullmatch(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", ascii_text.lower(text))
    if match is None or int(match[1] or 0) > 65_535:
        raise ValueError("must be HOST or HOST:PORT, as in a URL")
    return ascii_text.lower(text)


def network(text: str) -> str:
    """Require an IP address or a network; return it in its canonical form, IPv4-mapped IPv6 as IPv4."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            whole = ipaddress.ip_network(text, strict=False)
            raise ValueError(f"has bits after its prefix; the network is {whole}") from None
        raise ValueError("must be an IP address or a network, such as 10.0.0.0/8") from None
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    if mapped is not None and found.prefixlen >= _MAPPED_BITS:
        return f"{mapped}/{found.prefixlen - _MAPPED_BITS}"
    return str(found)


def callback_host(text: str) -> str:
    """Require the authority of a URL, in which an address is written in its usual form.

    The system's resolver takes 127.1, 0x7f000001 and 2130706433 for 127.0.0.1 as well.
    """
    host = authority(text)
    name = host.partition(":")[0]
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:].partition("]")[0])
        elif re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name.rstrip(".").rpartition(".")[2]):
            ipaddress.IPv4Address(name)
    except ValueError:
        raise ValueError("must have a name, or an address in its usual form: 192.0.2.1, [2001:db8::1]") from None
    return host


# SHA-256 of the keys in the examples of Standard Webhooks 1.0, one of which our guide had, too.
_PUBLISHED_SECRETS: Final = frozenset(
    {
        "f74e1720b76148810ffaeb4dc46a600cfa2fc3720e96da67a85a3dcb3f14c7a3",
        "640bcf020faf995ff89f2cda6aa82e743433a27ac4da83349643b355e59b1d49",
    }
)


def webhook_secret(secret: str) -> str:
    """Require a secret of Standard Webhooks 1.0: `whsec_` and 24 to 64 bytes in base64."""
    if not secret:
        return secret
    try:
        key = b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ followed by 24 to 64 random bytes in base64")
    if hashlib.sha256(key).hexdigest() in _PUBLISHED_SECRETS:
        raise ValueError("is the secret of a published example: use 24 to 64 random bytes of your own")
    return secret
