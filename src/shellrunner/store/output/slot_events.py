"""Writes to slots as the kernel reports them (inotify(7)), so that new output is noticed without polling.

Owned by `local`, used on the event loop. Knows files and descriptors; must not know what is in a slot.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable

_IN_MODIFY, _IN_ONESHOT = 0x2, 0x80000000  # <sys/inotify.h>
_EVENT = struct.Struct("iIII")  # the watch, what happened, a cookie, and the length of a name, which a file has not
_READ_SIZE = 4096  # bytes

OnWritten = Callable[[], None]


class SlotEvents:
    """One call for the next write to a slot. A file that is written all the time costs nothing in between."""

    def __init__(self, directory: str) -> None:
        """`directory` has the slots. Nothing is opened before the first watch."""
        self._directory = directory
        self._fd = -1
        self._libc: ctypes.CDLL | None = None
        self._waiting: dict[int, list[OnWritten]] = {}  # by watch; one of a slot, as it is one of an inode

    def watch_once(self, name: str, on_written: OnWritten) -> bool:
        """Call `on_written` once when the slot has been written to; return false if the kernel cannot report it."""
        try:
            watch = self._add_watch(f"{self._directory}/{name}")
        except OSError:  # no slot of this name, or as many watches, or users of inotify, as the system allows
            return False
        self._waiting.setdefault(watch, []).append(on_written)
        return True

    def close(self) -> None:
        """Forget all watches."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._waiting.clear()

    def _add_watch(self, path: str) -> int:
        if self._libc is None:
            self._libc = ctypes.CDLL(None, use_errno=True)
        if self._fd < 0:
            self._fd = _checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(_IN_MODIFY | _IN_ONESHOT))
        return _checked(watch)

    def _read(self) -> None:
        try:
            events = os.read(self._fd, _READ_SIZE)
        except BlockingIOError:
            return
        for watch, *_ in _EVENT.iter_unpack(events):
            # Twice for each: it was written to, and its only event was reported (IN_IGNORED). If events were lost
            # (IN_Q_OVERFLOW, watch -1), perhaps all were written to.
            waiting = [self._waiting.pop(watch, [])] if watch >= 0 else list(self._waiting.values())
            for on_written in [each for callbacks in waiting for each in callbacks]:
                on_written()


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
