"""Copies of files with their checksums, readable by their owner only, and the syncs that make them durable.

Knows files only; must not know what is in them.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from shellrunner.errors import ShellrunnerError

_BLOCK_SIZE: Final = 1 << 20
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class FileSum(NamedTuple):
    """The size and the SHA-256 of a file."""

    size: int
    sha256: str


def copy(source: Path, target: Path, limit: int | None = None) -> FileSum:
    """Copy a regular file, or its first `limit` bytes, into a new one.

    Raises:
        FileNotFoundError: there is no regular file of this name; links are not followed.
        OSError: it could not be read or written.
    """
    with _opened(source) as reading:
        writing = os.open(target, _CREATE, 0o600)
        try:
            digest, size = hashlib.sha256(), 0
            for block in _blocks(reading, limit):
                digest.update(block)
                size += len(block)
                _write_all(writing, block)
        finally:
            os.close(writing)
    return FileSum(size, digest.hexdigest())


def sum_of(path: Path) -> FileSum:
    """Return the sum of a regular file.

    Raises:
        FileNotFoundError: as for `copy`.
        OSError: it could not be read.
    """
    with _opened(path) as reading:
        digest, size = hashlib.sha256(), 0
        for block in _blocks(reading, None):
            digest.update(block)
            size += len(block)
    return FileSum(size, digest.hexdigest())


def create(path: Path, content: bytes = b"") -> None:
    """Create a file for this user alone.

    Raises:
        FileExistsError: there is one.
        OSError: it could not be written.
    """
    fd = os.open(path, _CREATE, 0o600)
    try:
        _write_all(fd, content)
    finally:
        os.close(fd)


def sync_tree(directory: Path) -> None:
    """Sync every file and directory below this one, and it last."""
    for entry in sorted(directory.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            sync_tree(entry)
        else:
            sync(entry)
    sync(directory)


def sync(path: Path) -> None:
    """Sync one file or directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def readable_errors(what: str) -> Iterator[None]:
    """Raise a ShellrunnerError with a clear text for a failing file operation; `what` was not done.

    Raises:
        ShellrunnerError: with the path and the reason.
    """
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        free = ": free some space, or use another file system" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise ShellrunnerError(f"{what}: {where}{error.strerror or error}{free}") from error


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path)) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
        yield fd
    finally:
        os.close(fd)


def _blocks(fd: int, limit: int | None) -> Iterator[bytes]:
    left = limit
    while left is None or left > 0:
        block = os.read(fd, _BLOCK_SIZE if left is None else min(_BLOCK_SIZE, left))
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
