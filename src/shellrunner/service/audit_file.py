"""The audit log in a file of its own (`audit.file`): appended, and synced before what a line says is done.

Owned by the composition root; used by the web side. Lines that arrive while a sync is under way are written together
and share the next one. Must not know what the lines say.

The file may be rotated in any way: it is looked up before each write, so that what was renamed or removed gets no
further line; O_APPEND is for a file that was truncated (logrotate's `copytruncate`).
"""

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from shellrunner.directory_sync import sync_directory
from shellrunner.errors import ConfigError
from shellrunner.log import AUDIT, format_line, handler
from shellrunner.service.audit_log import AuditLog

log = logging.getLogger("shellrunner.service")

_TIMEOUT: Final = 5.0  # seconds within which a line must be on the disk
_PROBE_TIMEOUT: Final = 1.0
MAX_WAITING: Final = 1000  # posted lines that are kept while they cannot be written
_MODE: Final = 0o600
# Not through a symbolic link, whose target somebody else may have chosen; NONBLOCK: a pipe must not block the start.
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Line(NamedTuple):
    content: bytes  # empty: only find out whether a line could be written
    written: asyncio.Future[bool] | None  # None: nobody waits for it


class AuditFile:
    """Appends lines to the file."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            ConfigError: it cannot be used.
        """
        self._path = path
        self._fd = -1
        self._is_outdated = False  # to be opened again before the next line
        self._failure: str | None = None
        self._waiting: list[_Line] = []
        self._writing: asyncio.Task[None] | None = None
        try:
            self._open()
        except OSError as error:
            raise ConfigError(f"audit.file: {_reason(error)}") from None

    async def write(self, event: str, details: Mapping[str, Any]) -> bool:
        """Write a line and sync it; return False if that fails or takes too long.

        In the latter case it may still be written.
        """
        return await self._add(_encode(event, details), _TIMEOUT)

    def post(self, event: str, details: Mapping[str, Any]) -> bool:
        """Write a line with the next sync, which begins now unless one is under way; False: too many are waiting."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(_Line(_encode(event, details), None))
        self._start_writing()
        return True

    async def failure(self) -> str | None:
        """Return why a line could not be written now; None if it could."""
        return None if await self._add(b"", _PROBE_TIMEOUT) else self._failure or "the disk does not respond"

    async def reopen(self) -> None:
        """Reopen the file, as after a rotation, even if it looks unchanged."""
        self._is_outdated = True
        await self.failure()

    async def close(self) -> None:
        """Write what is waiting, if possible, and close the file."""
        await self.failure()
        if self._writing is None:
            self._close()

    async def _add(self, content: bytes, seconds: float) -> bool:
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        line = _Line(content, written)
        self._waiting.append(line)
        self._start_writing()
        try:
            async with asyncio.timeout(seconds):
                return await written
        except TimeoutError:
            with contextlib.suppress(ValueError):  # it is being written
                self._waiting.remove(line)
            return False

    def _start_writing(self) -> None:
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting(), name="audit file")

    async def _write_waiting(self) -> None:
        try:
            # After a failure, lines that nobody waits for are tried again with the next one.
            while self._waiting and not (self._failure and all(line.written is None for line in self._waiting)):
                await self._write_batch()
        finally:
            self._writing = None

    async def _write_batch(self) -> None:
        lines = [line for line in self._waiting if line.written is None or not line.written.done()]
        self._waiting = []
        content = b"".join(line.content for line in lines)
        if self._failure and not content:
            content = _encode("audit file checked", {})  # the only way to find out
        self._set_failure(await asyncio.get_running_loop().run_in_executor(None, self._append, content))
        if self._failure:
            # Without those that somebody waits for: what is not done must not be written as accepted.
            self._waiting[:0] = [line for line in lines if line.written is None]
        for line in lines:
            if line.written is not None and not line.written.done():
                line.written.set_result(self._failure is None)

    def _set_failure(self, failure: str | None) -> None:
        if failure and not self._failure:
            log.error("the audit file cannot be written", extra={"file": str(self._path), "reason": failure})
        elif self._failure and not failure:
            log.info("the audit file can be written again", extra={"file": str(self._path)})
        self._failure = failure

    # The following run in a worker thread, one at a time.

    def _append(self, content: bytes) -> str | None:
        """Append and sync the lines; return why that failed, or would fail if there are none."""
        try:
            self._open_current()
            if not content:
                return _room_failure(self._fd)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fdatasync(self._fd)
        except OSError as error:
            # Opened again for the next line: after a failed sync a second one would succeed without the data
            # (fsync(2)), and a line that was written in part must be ended first.
            self._close()
            return _reason(error)
        return None

    def _open_current(self) -> None:
        """Open the file that the path leads to, unless it is the open one."""
        if self._fd >= 0 and not self._is_outdated:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._path, follow_symlinks=False), os.fstat(self._fd)):
                    return
        self._close()
        self._open()
        self._is_outdated = False

    def _open(self) -> None:
        """Open the file, or create it, and end a line that was written in part.

        Raises:
            OSError: that fails, or others can read or change it.
        """
        directory = self._path.parent
        _check_directory(directory)
        try:
            self._fd = os.open(self._path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
            sync_directory(directory)
        except FileExistsError:
            self._fd = os.open(self._path, _FLAGS)
        try:
            status = os.fstat(self._fd)
            _check_file(self._path, status)
            if status.st_size and os.pread(self._fd, 1, status.st_size - 1) != b"\n":
                os.write(self._fd, b"\n")
        except OSError:
            self._close()
            raise

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _encode(event: str, details: Mapping[str, Any]) -> bytes:
    return format_line(logging.INFO, event, AUDIT, details).encode(errors="backslashreplace")


def _room_failure(fd: int) -> str | None:
    room = os.fstatvfs(fd)
    return None if (room.f_bfree if os.geteuid() == 0 else room.f_bavail) else os.strerror(errno.ENOSPC)


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PermissionError(f"{path}: must be a regular file")
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path}: belongs to another user (uid {status.st_uid})")
    if stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise PermissionError(f"{path}: other users can read or change it: chmod 600 {path}")


def _check_directory(directory: Path) -> None:
    """Require that nobody else can replace the file."""
    status = os.stat(directory)
    if status.st_uid not in {0, os.geteuid()}:
        raise PermissionError(f"{directory}: belongs to another user (uid {status.st_uid}), who can replace the file")
    is_shared = stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if is_shared and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(f"{directory}: other users can replace the file: use a directory of its own")


def _reason(error: OSError) -> str:
    if error.errno is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


@contextlib.asynccontextmanager
async def audit_sink(path: Path | None) -> AsyncIterator[AuditFile | AuditLog]:
    """Open the audit file; None: the audit log is among the other lines on standard error.

    Raises:
        ConfigError: the file cannot be used.
    """
    if path is None:
        yield AuditLog(handler())
        return
    file = AuditFile(path)
    try:
        yield file
    finally:
        await file.close()
