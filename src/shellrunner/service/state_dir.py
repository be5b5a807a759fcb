"""The state directory: private to the service's user, and locked, so that one server at a time uses it.

Owned by the composition root. Knows the names of the files in it, but not their contents.
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
from shellrunner.sealing import key_files
from shellrunner.store.state_files import high_water

log = logging.getLogger("shellrunner.service")

_DIRECTORIES: Final = ("slots", "runs", key_files.DIRECTORY)
# SQLite gives its journal files the mode of the database, but opens an existing file, wherever a link leads.
_HISTORY: Final = ("history.db", "history.db-journal", "history.db-wal", "history.db-shm")
_FILES: Final = (*_HISTORY, "ballast", "keepers.log", "lock")
RESTORING: Final = "restore.partial"  # a directory that is there while `shellrunner restore` replaces files
_LOCK_SIZE: Final = 64  # bytes: the server's pid and the directory's inode number
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def prepare(state_dir: Path) -> Path:
    """Create the state directory and its subdirectories; remove other users' access to what exists already.

    Raises:
        StoreUnavailable: it cannot be used, belongs to another user, or contains a file of the wrong type.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(state_dir, os.O_DIRECTORY)  # may be reached through a link: systemd makes one (DynamicUser=)
        for name in _DIRECTORIES:
            with contextlib.suppress(FileExistsError):
                os.mkdir(state_dir / name, 0o700)
            _make_private(state_dir / name, os.O_DIRECTORY | os.O_NOFOLLOW)
        for name in (*_FILES, *high_water.names(str(state_dir))):
            with contextlib.suppress(FileNotFoundError):
                _make_private(state_dir / name, os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        what = error.filename or state_dir
        raise StoreUnavailable(f"cannot use the state directory {state_dir}: {what}: {error.strerror}") from None
    return state_dir


def _make_private(path: Path, kind: int) -> None:
    """Remove the permissions of group and others.

    Raises:
        StoreUnavailable: it belongs to another user, or is of the wrong type.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | kind)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and path.is_symlink():
            raise StoreUnavailable(f"{path} is a symbolic link, which is not followed: remove it") from None
        raise
    try:
        status = os.fstat(fd)
        if not (stat.S_ISDIR(status.st_mode) if kind & os.O_DIRECTORY else stat.S_ISREG(status.st_mode)):
            raise StoreUnavailable(f"{path} is not a regular file: remove it")
        if status.st_uid != os.geteuid():
            words = f"belongs to another user (uid {status.st_uid}), and the service runs as uid {os.geteuid()}"
            raise StoreUnavailable(f"{path} {words}: change its owner, or set another store.state_dir")
        if status.st_mode & _OTHERS:
            os.fchmod(fd, stat.S_IMODE(status.st_mode) & ~_OTHERS)
            log.warning("removed the access of other users", extra={"path": str(path)})
    finally:
        os.close(fd)


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Create files for the service's user only; commands keep the umask with which the service was started."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def locked(state_dir: Path, *, restores: bool = False) -> Iterator[None]:
    """Hold the state directory's lock: that of the file `lock`, and one on the directory, as the file may be removed.

    Raises:
        StateLocked: another server holds it.
        StoreUnavailable: its files are of two histories, because a restore was interrupted; unless it `restores`.
    """
    fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    directory_fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        holder, *last = os.pread(fd, _LOCK_SIZE, 0).decode(errors="replace").split() or ["unknown"]
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _lock_directory(directory_fd)
        except BlockingIOError:
            raise StateLocked(f"another server (pid {holder}) uses the state directory {state_dir}") from None
        if not restores and (state_dir / RESTORING).exists():
            raise StoreUnavailable(
                f"{state_dir / RESTORING} shows that a restore was interrupted: "
                "repeat it with shellrunner restore --set-aside"
            )
        directory = str(os.stat(state_dir).st_ino)
        if not restores:
            _check_links(state_dir, is_own=last == [directory])
        os.pwrite(fd, f"{os.getpid()} {directory}\n".encode().ljust(_LOCK_SIZE), 0)
        yield
    finally:
        os.close(directory_fd)
        os.close(fd)


def _lock_directory(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:  # NFS has no such locks on directories
        log.info("the state directory itself cannot be locked", extra={"reason": error.strerror})


def _check_links(state_dir: Path, *, is_own: bool) -> None:
    """Refuse a history that was hard-linked from another directory (`cp -al`): it is still that one's.

    SQLite keeps a WAL for each name, and applies one to what was changed through the other
    (sqlite.org/howtocorrupt.html, 2.5). The directory that used the history last (`is_own`) may go on.

    Raises:
        StoreUnavailable: `history.db` has a second name, and this may not be the first.
    """
    history = state_dir / "history.db"
    try:
        links = os.stat(history, follow_symlinks=False).st_nlink
    except FileNotFoundError:
        return
    if links > 1 and not is_own:
        words = "a hard link, so it is also the history of another directory: copy it (cp -a) instead of linking it"
        raise StoreUnavailable(f"{history} is {words}")
    if links > 1:
        log.warning("the history has a second name; it must never be opened by that", extra={"path": str(history)})
