"""The key files in `keys/`: 32 random bytes each, synced when they are made, overwritten before they are removed.

Blocking; called on threads. Must not know what is sealed with a key, or for which job.
"""

import errno
import logging
import os
import re
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from shellrunner.directory_sync import sync_directory
from shellrunner.errors import NoSpace, StoreUnavailable

DIRECTORY: Final = "keys"
KEY_SIZE: Final = 32  # bytes
_MAX_OPEN: Final = 100  # files at once
T = TypeVar("T")

_NAME: Final = re.compile("[0-9a-f]{32}")
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# Those say nothing about the file, and pass. Anything else would hold up the jobs behind this one for ever.
_PASSING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)

_log = logging.getLogger(__name__)


class KeyUnusable(StoreUnavailable):
    """What was sealed with the key can never be read again."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the values of its environment variables and its input cannot be read: {reason}; submit the job again"
        )


@dataclass(frozen=True, slots=True)
class JobKey:
    """The key of one job, and the name of its file."""

    name: str
    secret: bytes = field(repr=False)


class KeyFiles:
    """The keys of one state directory."""

    def __init__(self, state_dir: str) -> None:
        self._directory = f"{state_dir}/{DIRECTORY}"

    def create(self, count: int) -> list[JobKey]:
        """Make so many keys, durably: all files are written, then synced, then their directory.

        Raises:
            OSError: they could not be made; none is left behind.
        """
        keys = [JobKey(secrets.token_hex(16), secrets.token_bytes(KEY_SIZE)) for _ in range(count)]
        try:
            for some in _chunks(keys):
                self._write_synced(some)
            sync_directory(self._directory)
        except OSError:
            self.destroy([key.name for key in keys])
            raise
        return keys

    def _write_synced(self, keys: Sequence[JobKey]) -> None:
        files: list[int] = []
        try:
            for key in keys:
                files.append(os.open(self._path(key.name), _CREATE, 0o600))
                os.write(files[-1], key.secret)
            for file in files:
                os.fsync(file)
        finally:
            for file in files:
                os.close(file)

    def read(self, name: str) -> bytes:
        """Return a key.

        Raises:
            KeyUnusable: its file is missing or damaged.
            OSError: it cannot be read now.
        """
        try:
            file = os.open(self._path(name), os.O_RDONLY | _OPEN)
            try:
                secret = os.read(file, KEY_SIZE + 1)
            finally:
                os.close(file)
        except FileNotFoundError:
            raise KeyUnusable(f"the key {name} is missing (backups contain no keys)") from None
        except OSError as error:
            if error.errno in _PASSING:
                raise
            raise KeyUnusable(f"the key {name} cannot be read ({error.strerror})") from error
        if len(secret) != KEY_SIZE:
            raise KeyUnusable(f"the key {name} is damaged")
        return secret

    def names(self) -> set[str]:
        """Return the name of each key that is there."""
        try:
            return {name for name in os.listdir(self._directory) if _NAME.fullmatch(name)}
        except FileNotFoundError:
            return set()

    def destroy(self, names: Collection[str]) -> None:
        """Overwrite and remove the keys, as far as they are there; log what cannot be removed."""
        for some in _chunks([*names]):
            self._destroy(some)

    def _destroy(self, names: Sequence[str]) -> None:
        overwritten = [file for name in names if (file := self._overwrite(name)) is not None]
        for file in overwritten:
            # Without it, the kernel would drop what was written together with the file.
            try:
                os.fdatasync(file)
            except OSError as error:
                _log.warning("the key of a job could not be overwritten", extra={"reason": error.strerror})
            finally:
                os.close(file)
        for name in names:
            try:
                os.unlink(self._path(name))
            except FileNotFoundError:
                pass
            except OSError as error:
                _log.warning("the key of a job could not be removed", extra={"key": name, "reason": error.strerror})

    def _overwrite(self, name: str) -> int | None:
        """Overwrite a key with zeros; return the open file, which is to be synced."""
        try:
            file = os.open(self._path(name), os.O_WRONLY | _OPEN)
        except OSError:
            return None
        try:
            os.pwrite(file, bytes(KEY_SIZE), 0)
        except OSError as error:
            _log.warning("the key of a job could not be overwritten", extra={"reason": error.strerror})
        return file

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in pieces: their files are open at the same time, and descriptors are limited."""
    for start in range(0, len(items), _MAX_OPEN):
        yield items[start : start + _MAX_OPEN]


def set_aside(state_dir: str, suffix: str) -> Sequence[str]:
    """Move the directory with the keys of another history away; return the names of the keys."""
    names = sorted(KeyFiles(state_dir).names())
    if names:
        os.rename(f"{state_dir}/{DIRECTORY}", f"{state_dir}/{DIRECTORY}.{suffix}")
        os.mkdir(f"{state_dir}/{DIRECTORY}", 0o700)
    return names


def write_error(what: str, error: Exception) -> StoreUnavailable:
    """Return the error as callers of the store may see it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace()
    return StoreUnavailable(f"{what}: {getattr(error, 'strerror', None) or error}")
