"""Store one command's output as it arrives, up to its limit.

Owned by the running command, one per job. Fills the slot first, then `runs/<job>.<token>.out` and `.idx`; must not
know processes. What is stored is always a prefix of what was written: from the first byte that does not fit (limit or
disk) on, or once a file was cut or removed, nothing more is stored, and everything is counted as dropped.

The first of five stages between a command's write and a follower's read, each of which delays or merges output:
output of one stream within 5 ms shares an index entry here; next, `notifications`.
"""

import os
import time
import zlib
from contextlib import suppress
from typing import Any

from .slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY, IndexEntry, SlotWriter, data_path, index_path

_COALESCE_NS = 5_000_000  # output of the same stream within this time of an entry gets no entry of its own
# The name has the claim's token, so nobody else's file can be there: two commands never write one file.
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Recorder:
    """The stored output of one attempt. `stored` and `dropped` count bytes by stream (0 stdout, 1 stderr)."""

    def __init__(self, slot: SlotWriter, state: int, job: int, token: str, limit: int, *, attempt: int = 1) -> None:
        """Store at most `limit` bytes: both streams together, with the part of the index that is not in the slot."""
        self._slot, self._state, self._job, self._token, self._limit = slot, state, job, token, limit
        self._attempt = attempt
        self._data_file = self._index_file = -1
        self._entries = 0
        self._last_stream, self._last_time = -1, 0
        self._full = False
        self.over_limit = False  # bytes were dropped for the limit, not for the disk
        self._data_crc = self._index_crc = 0
        self._pid: int | None = None
        self.stored = [0, 0]
        self.dropped = [0, 0]

    def store(self, stream: int, data: bytes) -> None:
        """Store what was read from a stream, as far as it fits."""
        stored = 0 if self._full else self._write(stream, data)
        self.stored[stream] += stored
        self.dropped[stream] += len(data) - stored
        self._full = self._full or stored < len(data)
        self._write_progress()

    def publish_pid(self, pid: int) -> None:
        """Show the command's pid to readers of the slot."""
        self._pid = pid
        self._write_progress()

    def withdraw_pid(self, *, now: bool) -> None:
        """Show it no more, at once or from the next write on: the command has ended."""
        was_published, self._pid = self._pid is not None, None
        if now and was_published:
            self._write_progress()

    def _write_progress(self) -> None:
        # If it cannot be written, readers see less than there is; the next one, or the end, counts all of it.
        with suppress(OSError):
            self._slot.progress({**self.counts(), "pid": self._pid})

    def counts(self) -> dict[str, Any]:
        """Return the counts, as the slot's `progress` and `end` have them."""
        return {
            "job": self._job,
            "token": self._token,
            "stdout": self.stored[0],
            "stderr": self.stored[1],
            "entries": self._entries,
            "stdout_dropped": self.dropped[0],
            "stderr_dropped": self.dropped[1],
            # Of the part in the slot: it is never synced, so it must be verified after a power failure.
            "data_crc": self._data_crc,
            "index_crc": self._index_crc,
        }

    def sync(self) -> None:
        """Sync the files outside the slot, before an end is written that relies on them."""
        for file in (self._data_file, self._index_file):
            if file >= 0:
                os.fsync(file)
        if self._data_file >= 0 or self._index_file >= 0:
            runs = os.open("runs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._state)
            try:
                os.fsync(runs)
            finally:
                os.close(runs)

    def close(self) -> None:
        """Close the files."""
        for file in (self._data_file, self._index_file):
            if file >= 0:
                with suppress(OSError):  # the descriptor is free all the same (close(2)); `sync` is what reports
                    os.close(file)
        self._data_file = self._index_file = -1

    def _write(self, stream: int, data: bytes) -> int:
        position = self.stored[0] + self.stored[1]
        now = time.time_ns()
        try:
            if stream != self._last_stream or now - self._last_time >= _COALESCE_NS:
                self._write_entry(IndexEntry(position, stream, self.stored[stream], now))
            space = self._limit - position - max(0, self._entries - INDEX_CAPACITY) * ENTRY_SIZE
            if space < len(data):
                self.over_limit = True
                data = data[: max(space, 0)]
            return self._write_data(position, data)
        except OSError:  # ENOSPC, EDQUOT, EIO: a disk that accepts nothing must not end the job
            return 0

    def _write_entry(self, entry: IndexEntry) -> None:
        if self._entries < INDEX_CAPACITY:
            self._slot.write_entry(self._entries, entry)
            self._index_crc = zlib.crc32(entry.pack(), self._index_crc)
        else:
            if self._index_file < 0:
                path = index_path(self._job, self._attempt, self._token)
                self._index_file = os.open(path, _NEW_FILE, 0o600, dir_fd=self._state)
            if os.pwrite(self._index_file, entry.pack(), (self._entries - INDEX_CAPACITY) * ENTRY_SIZE) < ENTRY_SIZE:
                raise OSError("short write of an index entry")
        self._entries += 1
        self._last_stream, self._last_time = entry.stream, entry.time

    def _write_data(self, position: int, data: bytes) -> int:
        here = min(len(data), max(0, DATA_CAPACITY - position))
        if here:
            self._slot.write_data(position, data[:here])
            self._data_crc = zlib.crc32(data[:here], self._data_crc)
        if here == len(data):
            return here
        return here + self._write_file(position + here - DATA_CAPACITY, memoryview(data)[here:])

    def _write_file(self, at: int, rest: memoryview) -> int:
        written = 0
        try:
            if self._data_file < 0:
                path = data_path(self._job, self._attempt, self._token)
                self._data_file = os.open(path, _NEW_FILE, 0o600, dir_fd=self._state)
            elif not _is_intact(self._data_file, at):
                return 0
            while written < len(rest) and (more := os.pwrite(self._data_file, rest[written:], at + written)):
                written += more
        except OSError:
            pass  # what was written before counts; the caller sees that it is incomplete
        return written


def _is_intact(file: int, size: int) -> bool:
    """Return whether a file still has all that was written: behind a cut the kernel would fill up with zeros."""
    found = os.fstat(file)
    return found.st_size >= size and found.st_nlink > 0
