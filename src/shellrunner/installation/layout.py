"""Where an installation puts its files: for the system, for one user, or below another root for a package.

Used by the plans of this package. Must not know what the files contain.
"""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SERVICE: Final = "shellrunner.service"
SOCKET: Final = "shellrunner.socket"
WORKER: Final = "shellrunner-worker.service"
DATABASE_URL: Final = "database-url"  # the name of a credential, and of the file beside the configuration
NAME: Final = "shellrunner"  # of directories and of the command
USER_NAME: Final = NAME
_ROOT: Final = Path("/")


@dataclass(frozen=True)
class Layout:
    """The paths of an installation, as they are when it runs; `at` returns where to write them now."""

    units: Path
    config: Path
    state: Path
    client: Path  # the client configuration of the user that installs
    root: Path = _ROOT
    is_user: bool = False
    link: Path | None = None  # makes the command available to all users

    @property
    def is_staged(self) -> bool:
        """Return whether only files are written, for a package."""
        return self.root != _ROOT

    @property
    def tokens(self) -> Path:
        """Return the path of the tokens file."""
        return self.config.with_name("tokens.toml")

    @property
    def database_url(self) -> Path:
        """Return the path of the file that has the URL of PostgreSQL."""
        return self.config.with_name(DATABASE_URL)

    @property
    def home(self) -> Path:
        """Return the home directory of the system user, in which its commands start: apart from the history."""
        return self.state / "home"

    def at(self, path: Path) -> Path:
        """Return a path below the root."""
        return self.root / path.relative_to("/")


def system_layout(config: Path | None = None, root: Path = _ROOT) -> Layout:
    """Return the paths for the system; below another root, those that belong to packages (hier(7))."""
    is_staged = root != _ROOT
    return Layout(
        units=Path("/usr/lib/systemd/system" if is_staged else "/etc/systemd/system"),
        config=config.absolute() if config else Path("/etc", NAME, "config.toml"),
        state=Path("/var/lib", NAME),
        client=Path(pwd.getpwuid(0).pw_dir, ".config", NAME, "client.toml"),  # sudo may leave another HOME
        root=root.absolute(),
        link=Path("/usr/bin" if is_staged else "/usr/local/bin", NAME),
    )


def user_layout(config: Path | None = None) -> Layout:
    """Return the paths for the user, as in the XDG Base Directory Specification."""
    config_home = _xdg("XDG_CONFIG_HOME", ".config")
    return Layout(
        units=config_home / "systemd" / "user",
        config=config.absolute() if config else config_home / NAME / "config.toml",
        state=_xdg("XDG_STATE_HOME", ".local/state") / NAME,
        client=config_home / NAME / "client.toml",
        is_user=True,
    )


def runtime_socket() -> Path:
    """Return the path of the socket of a user's own service."""
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(directory if directory.startswith("/") else f"/run/user/{os.getuid()}", f"{NAME}.sock")


def _xdg(variable: str, default: str) -> Path:
    path = os.environ.get(variable, "")  # a relative path is invalid and must be ignored
    return Path(path) if path.startswith("/") else Path.home() / default
