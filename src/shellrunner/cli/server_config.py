"""Where the service is and with which token: as the command line, the environment, or a person's own file say.

Else its socket, if there is one on this machine that we may use, else its usual port. Must not know requests.
"""

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

from shellrunner.client import DEFAULT_URL
from shellrunner.errors import ConfigError

URL, TOKEN = "SHELLRUNNER_URL", "SHELLRUNNER_TOKEN"
_SOCKET: Final = "shellrunner.sock"
_KEYS: Final = ("url", "token")
_TOKEN: Final = re.compile("[!-~]+")
_OPEN: Final = stat.S_IRWXG | stat.S_IRWXO


class ServerConfig(NamedTuple):
    """A server's URL and perhaps a token, each with what said so."""

    url: str
    url_from: str
    token: str | None = None
    token_from: str = ""


def find(server: str | None) -> ServerConfig:
    """Where to ask. A file's token is for the file's server, and goes to no other.

    Raises:
        ConfigError: what is said there makes no sense, or others can read the token.
    """
    path = file()
    given = _read(path)
    said = (("--server", server), (URL, os.environ.get(URL)), (str(path), given.get("url")))
    source, url = next(((source, url) for source, url in said if url), ("", _nearby()))
    if token := os.environ.get(TOKEN):
        return ServerConfig(url, source, _checked(token, TOKEN), TOKEN)
    meant = url == given["url"] if "url" in given else not source
    if meant and "token" in given:
        return ServerConfig(url, source, _checked(given["token"], str(path)), str(path))
    return ServerConfig(url, source)


def file() -> Path:
    """The file that a person may have."""
    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    home = (
        configured if configured.is_absolute() else Path(os.path.expanduser("~"), ".config")
    )  # the XDG standard ignores others
    return home / "shellrunner" / "client.toml"


def _read(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as source:
            mode = os.fstat(source.fileno()).st_mode
            given = tomllib.loads(source.read().decode())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    _check(path, given)
    if "token" in given and mode & _OPEN:
        raise ConfigError(f"{path}: has a token, and others can read or change it: chmod 600 {path}")
    return given


def _check(path: Path, given: dict[str, Any]) -> None:
    for key, value in given.items():
        if key not in _KEYS:
            raise ConfigError(f"{path}: {key}: there is no such key, only {' and '.join(_KEYS)}")
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {key}: must be a string")


def _checked(token: str, source: str) -> str:
    token = token.strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigError(f"{source}: the token has characters that no token has")
    return token


def _nearby() -> str:
    places = [Path("/run"), Path(os.environ.get("XDG_RUNTIME_DIR") or "/run")]
    for path in (place / _SOCKET for place in places):
        if path.is_socket() and os.access(path, os.W_OK):
            return f"unix:{path}"
    return DEFAULT_URL
