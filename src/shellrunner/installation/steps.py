"""The steps of an installation: each describes itself, detects whether it is done, and can be repeated.

Used by the plans of this package. Must not know what is installed.
"""

import contextlib
import grp
import os
import pwd
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from shellrunner.errors import ShellrunnerError

_COMMAND_TIMEOUT = 120  # seconds; starting the service may include migrating its history


class Ownership(NamedTuple):
    """The user and group of a file, by name: they may be created by an earlier step."""

    user: str
    group: str

    def __str__(self) -> str:
        """Return it as chown(1) takes it."""
        return f"{self.user}:{self.group}"

    def ids(self) -> tuple[int, int]:
        """Return uid and gid.

        Raises:
            KeyError: one of them does not exist.
        """
        return pwd.getpwnam(self.user).pw_uid, grp.getgrnam(self.group).gr_gid


class Step(Protocol):
    """One change of the host."""

    def describe(self) -> str:
        """Return what `apply` does, in the imperative, with the text that it would write."""

    def is_done(self) -> bool:
        """Return whether there is nothing to do."""

    def apply(self) -> None:
        """Make the change.

        Raises:
            ShellrunnerError: a command failed.
            OSError: a file cannot be changed.
        """


@dataclass(frozen=True)
class MakeDirectory:
    """Create a directory, or correct the mode and owner of an existing one."""

    path: Path
    mode: int
    owner: Ownership | None = None  # None: not changed

    def describe(self) -> str:
        """Return the path with mode and owner."""
        return f"create directory {self.path} ({_rights(self.mode, self.owner)})"

    def is_done(self) -> bool:
        """Return whether it exists as it should be."""
        return self.path.is_dir() and _has_rights(self.path, self.mode, self.owner)

    def apply(self) -> None:
        """Create it, and its parents."""
        self.path.mkdir(parents=True, exist_ok=True)
        _set_rights(self.path, self.mode, self.owner)


@dataclass(frozen=True)
class WriteFile:
    """Write a file, atomically, or correct its mode and owner."""

    path: Path
    text: str = field(repr=False)
    mode: int = 0o644
    owner: Ownership | None = None  # None: not changed
    keeps_content: bool = False  # an existing file belongs to the administrator
    shown: str | None = None  # shown instead of a text with a secret

    def describe(self) -> str:
        """Return the path with mode, owner and, if it is written, the text."""
        if self.writes():
            text = self.text if self.shown is None else self.shown
            lines = "".join(f"\n    {line}".rstrip(" ") for line in text.splitlines())
            return f"write {self.path} ({_rights(self.mode, self.owner)}):{lines}"
        return f"set mode and owner of {self.path} to {_rights(self.mode, self.owner)}"

    def writes(self) -> bool:
        """Return whether the content is to be written."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return True
        except PermissionError:  # of a dry run by an ordinary user
            return False
        return not self.keeps_content and text != self.text

    def is_done(self) -> bool:
        """Return whether it has the content, unless it keeps its own, and the mode and owner."""
        return not self.writes() and _has_rights(self.path, self.mode, self.owner)

    def apply(self) -> None:
        """Write it: at no moment is a part of it there, or is it readable by more users than at the end."""
        if not self.writes():
            _set_rights(self.path, self.mode, self.owner)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(self.text)
        _set_rights(new, self.mode, self.owner)
        new.rename(self.path)


@dataclass(frozen=True)
class MakeLink:
    """Create a symbolic link, unless there is something else with its name."""

    path: Path
    target: Path

    def describe(self) -> str:
        """Return the link and its target."""
        return f"create link {self.path} -> {self.target}"

    def is_done(self) -> bool:
        """Return whether it exists; whatever is in its place belongs to the administrator."""
        return os.path.lexists(self.path)

    def apply(self) -> None:
        """Create it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.symlink_to(self.target)


@dataclass(frozen=True)
class RunCommand:
    """Run a command, unless its effect is there already."""

    argv: Sequence[str]
    check: Callable[[], bool]
    explain: Callable[[], str] = str  # asked after a failure: what the command itself does not say; "" if nothing

    def describe(self) -> str:
        """Return the command."""
        return f"run {shlex.join(self.argv)}"

    def is_done(self) -> bool:
        """Return whether its effect is there."""
        return self.check()

    def apply(self) -> None:
        """Run it; its standard error is in the error message.

        Raises:
            ShellrunnerError: it failed, or took too long.
        """
        try:
            run(self.argv)
        except ShellrunnerError as error:
            if reason := self.explain():
                raise ShellrunnerError(f"{error}; {reason}") from None
            raise


@dataclass(frozen=True)
class Remove:
    """Remove a file or a link, or a directory with everything in it."""

    path: Path

    def describe(self) -> str:
        """Return the path."""
        is_tree = self.path.is_dir() and not self.path.is_symlink()
        return f"remove {self.path}{' and everything in it' if is_tree else ''}"

    def is_done(self) -> bool:
        """Return whether there is nothing with this name."""
        return not os.path.lexists(self.path)

    def apply(self) -> None:
        """Remove it; links are not followed."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


@dataclass(frozen=True)
class RemoveEmptyDirectory:
    """Remove a directory, unless it has other files in it than those of earlier steps."""

    path: Path
    removed_before: frozenset[str]

    def describe(self) -> str:
        """Return the path."""
        return f"remove {self.path}"

    def is_done(self) -> bool:
        """Return whether there is no such directory, or it is to stay."""
        return not self.path.is_dir() or bool({each.name for each in self.path.iterdir()} - self.removed_before)

    def apply(self) -> None:
        """Remove it."""
        self.path.rmdir()


def run(argv: Sequence[str]) -> str:
    """Run a command and return its standard output.

    Raises:
        ShellrunnerError: it cannot be started, failed, or took too long.
    """
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_COMMAND_TIMEOUT)
    except FileNotFoundError:
        raise ShellrunnerError(f"{argv[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise ShellrunnerError(f"{shlex.join(argv)}: not finished after {_COMMAND_TIMEOUT} seconds") from None
    if done.returncode:
        raise ShellrunnerError(f"{shlex.join(argv)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def succeeds(argv: Sequence[str]) -> bool:
    """Return whether a command that only asks for something exits with 0."""
    try:
        return subprocess.run(argv, capture_output=True, check=False, timeout=_COMMAND_TIMEOUT).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def _rights(mode: int, owner: Ownership | None) -> str:
    return f"{owner} {mode:o}" if owner else f"{mode:o}"


def _has_rights(path: Path, mode: int, owner: Ownership | None) -> bool:
    try:
        status = path.stat()
        return stat.S_IMODE(status.st_mode) == mode and (
            owner is None or owner.ids() == (status.st_uid, status.st_gid)
        )
    except (KeyError, PermissionError):  # an account that an earlier step creates; a dry run by an ordinary user
        return False


def _set_rights(path: Path, mode: int, owner: Ownership | None) -> None:
    if owner:
        os.chown(path, *owner.ids())
    path.chmod(mode)  # last: chown(2) clears some bits
