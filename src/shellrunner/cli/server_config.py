"""The address, token and user of the service: from the command line, the environment or the user's own file.

The default is the service's socket on this machine if it is accessible, else its default port. Must not know
requests.
"""

import os
import re
import stat
from pathlib import Path
from typing import Any, Final, NamedTuple

from shellrunner import ascii_text
from shellrunner.client import ANYBODY, DEFAULT_URL
from shellrunner.errors import ConfigError

URL_VARIABLE, TOKEN_VARIABLE = "SHELLRUNNER_URL", "SHELLRUNNER_TOKEN"
SERVER_USER_VARIABLE: Final = "SHELLRUNNER_SERVER_USER"
_SOCKET_NAME: Final = "shellrunner.sock"
_KEYS: Final = ("url", "token", "server_user")
_TOKEN: Final = re.compile("[!-~]+")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class ServerConfig(NamedTuple):
    """The URL of a server and optionally a token, each with the option, variable or file that set it.

    `server_user` may run a server on this machine, as the caller and root may.
    """

    url: str
    url_source: str  # empty: the default
    token: str | None = None
    token_source: str = ""
    server_user: str | None = None


def find(server: str | None) -> ServerConfig:
    """Return the server to use. A token from the file is sent only to the server that the file names.

    Raises:
        ConfigError: the configuration is invalid, or its token is readable by others.
    """
    path = config_path()
    content = _read(path)
    candidates = (
        ("--server", server), (URL_VARIABLE, os.environ.get(URL_VARIABLE)), (str(path), content.get("url")),
    )  # fmt: skip
    source, url = next(((source, url) for source, url in candidates if url), ("", _default_url()))
    config = ServerConfig(url, source, server_user=_server_user(content, path))
    if token := os.environ.get(TOKEN_VARIABLE):
        return config._replace(token=_checked_token(token, TOKEN_VARIABLE), token_source=TOKEN_VARIABLE)
    is_for_file = url == content["url"] if "url" in content else not source
    if is_for_file and "token" in content:
        return config._replace(token=_checked_token(content["token"], str(path)), token_source=str(path))
    return config


def config_path() -> Path:
    """Return the path of the user's configuration file, which need not exist."""
    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    # XDG Base Directory Specification: a relative path is invalid and to be ignored.
    home = configured if configured.is_absolute() else Path(os.path.expanduser("~"), ".config")
    return home / "shellrunner" / "client.toml"


def _read(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            import tomllib  # noqa: PLC0415  only for those who have the file

            status = os.fstat(file.fileno())
            content = tomllib.loads(file.read().decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: invalid TOML: {error}") from None
    _check(path, content)
    if "token" in content and status.st_mode & _OTHERS:
        raise ConfigError(f"{path}: contains a token, and other users may read or change it: chmod 600 {path}")
    if "server_user" in content and status.st_mode & _OTHERS_WRITE:
        raise ConfigError(f"{path}: sets server_user, and other users may change it: chmod 600 {path}")
    if "server_user" in content and status.st_uid not in {0, os.geteuid()}:  # as root with HOME of another user
        raise ConfigError(f"{path}: sets server_user, and belongs to another user: chown it, or remove server_user")
    return content


def _check(path: Path, content: dict[str, Any]) -> None:
    for key, value in content.items():
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}: expected {' or '.join(_KEYS)}")
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {key} must be a string, in quotes")


def _server_user(content: dict[str, str], path: Path) -> str | None:
    candidates = ((SERVER_USER_VARIABLE, os.environ.get(SERVER_USER_VARIABLE)), (path, content.get("server_user")))
    source, user = next(((source, user) for source, user in candidates if user), (path, None))
    if user is None or user == ANYBODY or ascii_text.is_decimal(user):
        return user
    import pwd  # noqa: PLC0415  only for those who need it

    try:
        return pwd.getpwnam(user).pw_name
    except KeyError:
        raise ConfigError(f"{source}: server_user: no such user: {user!r}") from None


def _checked_token(token: str, source: str) -> str:
    token = token.strip(" \t\r\n")
    if not _TOKEN.fullmatch(token):
        raise ConfigError(f"{source}: the token contains characters other than printable ASCII")
    return token


def _default_url() -> str:
    directories = [Path("/run"), Path(os.environ.get("XDG_RUNTIME_DIR") or "/run")]
    for path in (directory / _SOCKET_NAME for directory in directories):
        if path.is_socket() and os.access(path, os.W_OK):
            return f"unix:{path}"
    return DEFAULT_URL
