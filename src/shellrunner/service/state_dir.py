"""The state directory: for this user only, and locked, so that one server at a time works on it.

Owned by the composition root. Knows the names of what lies in it, but not what that is.
"""

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shellrunner.errors import StateLocked, StoreUnavailable

log = logging.getLogger("shellrunner.service")

_DIRECTORIES: Final = ("slots", "runs")
# SQLite gives the files beside its own the same mode, but opens what is there, wherever a link leads.
_HISTORY: Final = ("history.db", "history.db-journal", "history.db-wal", "history.db-shm")
_FILES: Final = (*_HISTORY, "ballast", "keepers.log", "lock")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def prepare(state_dir: Path) -> Path:
    """Make the state directory and what must be in it, for this user only; shut out others from what is there.

    Raises:
        StoreUnavailable: it cannot be used, is somebody else's, or something in it is not what it should be.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _shut(state_dir, os.O_DIRECTORY)  # which may be behind a link: systemd makes one (DynamicUser=)
        for name in _DIRECTORIES:
            with contextlib.suppress(FileExistsError):
                os.mkdir(state_dir / name, 0o700)
            _shut(state_dir / name, os.O_DIRECTORY | os.O_NOFOLLOW)
        for name in _FILES:
            with contextlib.suppress(FileNotFoundError):
                _shut(state_dir / name, os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreUnavailable(f"the state directory {state_dir} cannot be used: {error.strerror}") from None
    return state_dir


def _shut(path: Path, kind: int) -> None:
    """Take from others what they may do with it, if it is ours.

    Raises:
        StoreUnavailable: it is not, or is something else altogether.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | kind)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and path.is_symlink():
            raise StoreUnavailable(f"{path} is a symbolic link, which is not followed: move it away") from None
        raise
    try:
        status = os.fstat(fd)
        if not (stat.S_ISDIR(status.st_mode) if kind & os.O_DIRECTORY else stat.S_ISREG(status.st_mode)):
            raise StoreUnavailable(f"{path} is no regular file: move it away")
        if status.st_uid != os.geteuid():
            words = f"belongs to another user (uid {status.st_uid}), and the service runs as uid {os.geteuid()}"
            raise StoreUnavailable(f"{path} {words}: give it to that one, or name another store.state_dir")
        if status.st_mode & _OTHERS:
            os.fchmod(fd, stat.S_IMODE(status.st_mode) & ~_OTHERS)
            log.warning("others had access, and have it no more", extra={"path": str(path)})
    finally:
        os.close(fd)


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """What this process makes from now on is for its user only; commands have the umask that it was started with."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the state directory's lock: one server at a time.

    Raises:
        StateLocked: another server has it.
    """
    fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StateLocked(f"another server (pid {holder}) works on {state_dir}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
