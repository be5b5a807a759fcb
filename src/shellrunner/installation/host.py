"""The host of an installation: this program's executable, system users, and systemd.

Used by the plans of this package, and by `shellrunner unit`. Must not know what is installed.
"""

import contextlib
import grp
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shellrunner.errors import ShellrunnerError
from shellrunner.installation import steps
from shellrunner.installation.layout import SERVICE, WORKER
from shellrunner.systemd.unit_files import ServiceAccount

_ADVICE: Final = (
    "install shellrunner where every user can execute it: python3 -m venv /opt/shellrunner && "
    "/opt/shellrunner/bin/pip install …, and run /opt/shellrunner/bin/shellrunner install"
)
_UNITS: Final = re.compile(f"/({re.escape(SERVICE)}|{re.escape(WORKER)})/")
_BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)


def executable() -> list[str]:
    """Return the command of this installation: the script that pip puts beside Python, else Python and the module."""
    script = Path(sys.executable).with_name("shellrunner")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "shellrunner"]


def find_account(name: str) -> ServiceAccount:
    """Return a user with its group, which need not exist: useradd(8) and sysusers.d(5) give both the same name."""
    try:
        return ServiceAccount(name, grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name)
    except KeyError:
        return ServiceAccount(name, name)


def user_exists(name: str) -> bool:
    """Return whether the system has a user with this name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def require_permanent() -> None:
    """Require that this program stays where it is.

    Raises:
        ShellrunnerError: this is an environment in a cache, as uvx and `pipx run` make them.
    """
    environment = Path(sys.prefix)
    # An environment made by uv has the tag too: only a directory above it is a cache (bford.info/cachedir).
    if ".cache" in environment.parts or any((each / "CACHEDIR.TAG").exists() for each in environment.parents):
        raise ShellrunnerError(
            f"{environment} is in a cache, which may be emptied at any time: install shellrunner first, with "
            "`uv tool install`, `pipx install`, or pip in a virtual environment"
        )


def require_executable_by(name: str) -> None:
    """Require that a user can execute this program, which may be in another user's home.

    Raises:
        ShellrunnerError: it cannot.
    """
    python, package = Path(sys.executable), Path(__file__).parent
    for path in (python, python.resolve(), package.resolve()):
        if hidden := next(_unreachable(path, name), None):
            if path == python.resolve() != python:  # an environment elsewhere would have the same interpreter
                raise ShellrunnerError(
                    f"the user {name} cannot execute {path}, because of the mode of {hidden}: make the environment "
                    f"with a Python that every user can execute, such as /usr/bin/python3 -m venv {sys.prefix}"
                )
            raise ShellrunnerError(
                f"the user {name} cannot execute {path}, because of the mode of {hidden}: {_ADVICE}"
            )


def _unreachable(path: Path, name: str) -> Iterator[Path]:
    """Yield each directory on the path, and the path itself, that a user without special groups cannot enter."""
    uid = pwd.getpwnam(name).pw_uid if user_exists(name) else -1
    for each in [*reversed(path.parents), path]:
        status = each.stat()
        needed = stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH
        if uid != 0 and not status.st_mode & needed:
            yield each


def home_of(name: str) -> Path | None:
    """Return a user's home directory, or None if there is no such user."""
    return Path(pwd.getpwnam(name).pw_dir) if user_exists(name) else None


def service_processes(*, is_user: bool) -> list[int]:
    """Return the ids of all processes in the unit's cgroup: the service or worker, keepers and commands."""
    slice_ = f"/user-{os.getuid()}.slice/" if is_user else "/system.slice/"
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            with contextlib.suppress(OSError):  # a process that has ended
                lines = (each / "cgroup").read_text().splitlines()
                if any(slice_ in f"{line}/" and _UNITS.search(f"{line}/") for line in lines):
                    found.append(int(each.name))
    return found


class Systemctl:
    """systemctl(1), for the system or for the user's own instance of systemd."""

    def __init__(self, *, is_user: bool) -> None:
        self._argv = ["systemctl", "--user"] if is_user else ["systemctl"]
        self._is_user = is_user

    def require_running(self) -> None:
        """Require that systemd runs.

        Raises:
            ShellrunnerError: it does not.
        """
        if not _BOOTED.is_dir():
            raise ShellrunnerError(
                "systemd does not run here: use --no-start to write the files only, or start the service with "
                "`shellrunner serve`"
            )
        # systemd makes this directory; pam_systemd(8) sets the variable, also for ssh, but not for su and sudo.
        if self._is_user and not Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "systemd").is_dir():
            raise ShellrunnerError(
                "your own instance of systemd cannot be reached: log in by ssh or on a console, not by su or sudo, "
                "or use --no-start to write the files only"
            )

    def command(self, *words: str) -> list[str]:
        """Return the command line of systemctl with these words."""
        return [*self._argv, *words]

    def is_enabled(self, unit: str) -> bool:
        """Return whether a unit is started at boot."""
        return steps.succeeds(self.command("is-enabled", "--quiet", unit))

    def is_active(self, unit: str) -> bool:
        """Return whether a unit is started."""
        return steps.succeeds(self.command("is-active", "--quiet", unit))

    def status_of(self, unit: str) -> str:
        """Return what a unit reports, such as that it waits for PostgreSQL, with its name; "" if nothing."""
        try:
            text = steps.run(self.command("show", "--property=StatusText", "--value", unit)).strip()
        except ShellrunnerError:
            return ""
        return f"{unit} reports: {text}" if text else ""
