"""The configuration of an installed service: the file of a first installation, and what another one says.

Used by the plans of this package. Must not know how the service is started.
"""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from shellrunner.config import ServerSettings, WorkerSettings
from shellrunner.errors import ConfigError
from shellrunner.installation.layout import DATABASE_URL, Layout

_HEADER: Final = "# The settings of shellrunner. All that are not set here have their defaults."
_INSTALLED: Final = (
    "# The addresses are those of shellrunner.socket too: after a change, run `shellrunner install` again."
)
_PACKAGED: Final = (
    "# The addresses are those of shellrunner.socket too: change that with systemctl edit --full shellrunner.socket"
)


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file: its text, and the settings that concern an installation."""

    text: str
    server: ServerSettings
    tokens_file: Path | None
    has_tokens: bool
    has_database: bool
    url_file: Path | None
    is_new: bool

    def credential_file(self, where: Layout) -> Path | None:
        """Return the file whose content the unit gets as a credential, if the configuration names that."""
        return where.database_url if self.url_file == Path(DATABASE_URL) else None


def default_text(
    listen: Sequence[str], socket_mode: str | None, tokens_file: Path | None, *, is_packaged: bool
) -> str:
    """Return the text of a new configuration file."""
    lines = [_HEADER, _PACKAGED if is_packaged else _INSTALLED, "", "[server]", f"listen = {json.dumps([*listen])}"]
    if socket_mode:
        lines += ["# Every user may connect, but needs a token.", f'socket_mode = "{socket_mode}"']
    if tokens_file:
        lines += ["", "[auth]", f"tokens_file = {json.dumps(str(tokens_file))}"]
    return "\n".join([*lines, ""])


def worker_text() -> str:
    """Return the text of a new configuration file of a worker."""
    lines = [
        _HEADER,
        "# But for [worker] they are the same on all hosts: copy [auth], [queues] and so on from those with the API.",
        "",
        "[store]",
        f'url_file = "{DATABASE_URL}"  # a credential of the unit',
        "",
        "[worker]",
        f'# name = "{WorkerSettings().name}"',
    ]
    return "\n".join([*lines, ""])


def read_or_create(path: Path, default: str, listen: Sequence[str]) -> ConfigFile:
    """Read an existing file, or return a new one with the text `default`; `listen` are the requested addresses.

    Raises:
        ConfigError: it is invalid, or has other addresses than those requested.
    """
    try:
        text, is_new = path.read_text("utf-8-sig"), False
    except FileNotFoundError:
        text, is_new = default, True
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    found = _parse(path, text, is_new)
    if listen and list(listen) != found.server.listen:
        raise ConfigError(f"{path} exists and has other addresses: change server.listen there, and omit --listen")
    return found


def _parse(path: Path, text: str, is_new: bool) -> ConfigFile:
    try:
        document = tomllib.loads(text)
        server = ServerSettings.model_validate(document.get("server", {}))
        auth = document.get("auth", {})
        tokens_file = Path(auth["tokens_file"]) if "tokens_file" in auth else None
        store = document.get("store", {})
        url_file = Path(store["url_file"]) if "url_file" in store else None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["server", *map(str, first["loc"])])
        where = "--listen" if is_new else f"{path}: {key}"
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: invalid configuration: {error}") from None
    has_database = url_file is not None or bool(store.get("url"))
    return ConfigFile(text, server, tokens_file, bool(auth.get("tokens")), has_database, url_file, is_new)
