"""The home of a history: the directory that it lives in, known by something that is not copied along with its files.

Used at the opening of a history. Knows the lock file only; must not know SQL, jobs or slots.

The lock file's inode number alone is not enough: ext4 gives a freed number to the next new file, so that `rm -rf`
and `tar x` get the same one. Its birth time (statx(2)) or its file handle (name_to_handle_at(2), which has a
generation number) distinguishes the two. Neither can be set by a program that copies files.
"""

import ctypes
import errno
import json
import os
import struct
from typing import Final, NamedTuple, Self

from shellrunner.keeper.identity import boot_id

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
# Closing any other descriptor of history.db would release SQLite's locks on it (sqlite.org/howtocorrupt.html, 2.2),
# and the connection of another program would then remove the WAL under the server.
_OPEN: Final = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800
_MAX_HANDLE: Final = 128  # bytes of a file handle (MAX_HANDLE_SZ)
# File systems whose snapshots keep inode numbers and birth times: btrfs, ZFS, bcachefs. Their f_fsid is that of the
# subvolume or data set, and stays the same over reboots.
_WITH_SNAPSHOTS: Final = frozenset({0x9123683E, 0x2FC12FC1, 0xCA451A4E})


class Home(NamedTuple):
    """A directory, by its lock file.

    file: what stays the same for as long as the lock file exists, whatever it is called.
    volume: the file system; device numbers may change with a reboot, so it counts only within one boot.
    """

    file: str
    volume: str
    boot: str

    @classmethod
    def from_lock(cls, path: str) -> Self:
        """Return the home whose lock file this is.

        Raises:
            OSError: there is none, or it cannot be opened.
        """
        lock = os.open(path, _OPEN)
        try:
            status, fsid, file = os.fstat(lock), os.fstatvfs(lock).f_fsid, _identity(lock)
        finally:
            os.close(lock)
        # An anonymous device (major number 0: tmpfs, overlayfs, btrfs) may get another number with each mount.
        anonymous = os.major(status.st_dev) == 0 and fsid != 0
        volume = f"fsid {fsid:x}" if anonymous else f"device {status.st_dev:x}"
        return cls(file, volume, boot_id())

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """Return the home that `to_text` made this of; None if it is not one."""
        try:
            return cls(*map(str, json.loads(text)))
        except (ValueError, TypeError):
            return None

    def to_text(self) -> str:
        """Return it in a form for the history."""
        return json.dumps(self)

    def is_same(self, other: "Home") -> bool:
        """Return whether this is the same directory, perhaps moved within its file system, or after a reboot."""
        return self.file == other.file and (self.boot != other.boot or self.volume == other.volume)


def file_identity(path: str) -> str:
    """Return what stays the same for as long as this file exists; empty if there is none.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        file = os.open(path, _OPEN)
    except FileNotFoundError:
        return ""
    try:
        return _identity(file)
    finally:
        os.close(file)


def _identity(fd: int) -> str:
    subvolume = f".{os.fstatvfs(fd).f_fsid:x}" if _file_system_type(fd) in _WITH_SNAPSHOTS else ""
    return f"{os.fstat(fd).st_ino:x}.{_birth_time(fd) or _file_handle(fd)}{subvolume}"


def _birth_time(fd: int) -> str:
    """Return when the file was created, in nanoseconds; empty where the file system does not record it."""
    buffer = ctypes.create_string_buffer(256)
    try:
        if _LIBC.statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) != 0:
            return ""
    except AttributeError:  # a C library without statx
        return ""
    (mask,) = struct.unpack_from("=I", buffer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 0x50)
    return f"{seconds * 1_000_000_000 + nanoseconds:x}" if mask & _STATX_BTIME and (seconds or nanoseconds) else ""


def _file_handle(fd: int) -> str:
    """Return the file's handle, which has the generation number of its inode; empty where there is none."""
    handle = ctypes.create_string_buffer(struct.pack("=Ii", _MAX_HANDLE, 0), 8 + _MAX_HANDLE)
    mount = ctypes.c_int()
    try:
        if _LIBC.name_to_handle_at(fd, b"", handle, ctypes.byref(mount), _AT_EMPTY_PATH) != 0:
            return ""
    except AttributeError:
        return ""
    (size,) = struct.unpack_from("=I", handle, 0)
    return handle.raw[8 : 8 + size].hex()


def _file_system_type(fd: int) -> int:
    """Return the file system's magic number (statfs(2))."""
    buffer = ctypes.create_string_buffer(256)
    while _LIBC.fstatfs(fd, buffer) != 0:
        if ctypes.get_errno() != errno.EINTR:
            return 0
    (magic,) = struct.unpack_from("=q", buffer, 0)
    return int(magic)
