"""The slot: the preallocated file in which one keeper writes down what it witnessed.

Written by the keeper that holds its lock (one flock for the keeper's whole life), read by anyone. Knows files and
bytes; must not know processes or jobs' meaning.

    0       header     who the keeper is, and of which history
    4096    record 0   one job: blocks, index, data
    …       record 1   the next job; they are used in turn

A record: three blocks in its first page (`start`, `progress`, `end`), then room for the first `INDEX_CAPACITY` index
entries and the first `DATA_CAPACITY` bytes of output. What does not fit goes on in `runs/<job>.idx` and
`runs/<job>.out` (`runs/<job>.<attempt>.…` from the second attempt on, which `start` names). A block is its length,
its CRC-32 and JSON, so a torn one is told from a whole one.

Order is everything here. A keeper writes an index entry before the data it describes, and `progress` (how much is
stored) after both; whoever reads takes `progress` first, so what it counts is there. And a reader checks `start`
again after it has read: if it is still the same job's, nothing of what was read had been overwritten by another's.
"""

import errno
import fcntl
import json
import os
import stat
import struct
import zlib
from typing import Any, NamedTuple

VERSION = 1
PAGE_SIZE = 4096
DATA_CAPACITY = 65_536  # bytes of output kept in the slot
ENTRY_SIZE = 32  # bytes of an index entry, aligned, so that no entry straddles a page
INDEX_CAPACITY = 512  # entries kept in the slot
RECORD_SIZE = PAGE_SIZE + INDEX_CAPACITY * ENTRY_SIZE + DATA_CAPACITY
RECORD_COUNT = 2
SLOT_SIZE = PAGE_SIZE + RECORD_COUNT * RECORD_SIZE

_START, _PROGRESS, _END = 0, 512, 1024  # where the blocks lie in a record's first page
_ROOM = {_START: 512, _PROGRESS: 512, _END: PAGE_SIZE - _END}
_INDEX, _DATA = PAGE_SIZE, PAGE_SIZE + INDEX_CAPACITY * ENTRY_SIZE
_BLOCK = struct.Struct("<II")
_ENTRY = struct.Struct("<QQQQ")
_STDERR_BIT = 1 << 63

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class IndexEntry(NamedTuple):
    """One index entry: from `position` on the output is `stream`'s (0 stdout, 1 stderr), there at its own `offset`.

    `time` is in nanoseconds since the epoch. Lengths are implied: an extent ends where the next begins.
    """

    position: int
    stream: int
    offset: int
    time: int

    def pack(self) -> bytes:
        """As its 32 bytes."""
        stream_offset = self.offset | (_STDERR_BIT if self.stream else 0)
        return _ENTRY.pack(self.position, stream_offset, self.time, 0)


def parse_index(index: bytes) -> list[IndexEntry]:
    """Read whole entries back; a torn rest is left out."""
    whole = len(index) - len(index) % ENTRY_SIZE
    return [
        IndexEntry(position, int(offset >= _STDERR_BIT), offset & (_STDERR_BIT - 1), time)
        for position, offset, time, _ in _ENTRY.iter_unpack(index[:whole])
    ]


class Record(NamedTuple):
    """What a slot says of one job. `end` is None while there is none (or no whole one)."""

    number: int
    job: int
    token: str
    start: dict[str, Any]
    progress: dict[str, Any]
    end: dict[str, Any] | None

    @property
    def attempt(self) -> int:
        """Which attempt of the job this is, counted from 1."""
        attempt: int = self.start.get("attempt", 1)
        return attempt


def slot_name(keeper: int) -> str:
    """The slot's name in `slots/`."""
    return f"{keeper}.slot"


def socket_name(keeper: int) -> str:
    """The name of the socket beside it, on which its keeper listens."""
    return f"{keeper}.sock"


def data_path(job: int, attempt: int = 1) -> str:
    """Where an attempt's output beyond the slot lies, relative to the state directory."""
    return f"runs/{_attempt(job, attempt)}.out"


def index_path(job: int, attempt: int = 1) -> str:
    """Where an attempt's index beyond the slot lies, relative to the state directory."""
    return f"runs/{_attempt(job, attempt)}.idx"


def _attempt(job: int, attempt: int) -> str:
    return f"{job}" if attempt == 1 else f"{job}.{attempt}"


def _block(content: dict[str, Any], room: int) -> bytes:
    body = _encode(content).encode()
    if len(body) + _BLOCK.size > room:
        raise ValueError(f"a block of {len(body)} bytes where {room} fit")
    return _BLOCK.pack(len(body), zlib.crc32(body)) + body


def _unblock(page: bytes, at: int, room: int) -> dict[str, Any] | None:
    length, crc = _BLOCK.unpack_from(page, at)
    body = page[at + _BLOCK.size : at + _BLOCK.size + length]
    if not 0 < length <= room - _BLOCK.size or zlib.crc32(body) != crc:
        return None
    try:
        content = json.loads(body)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


class SlotWriter:
    """A slot as its keeper has it: locked for life, written in place, never synced."""

    def __init__(self, directory: int, name: str) -> None:
        """Create the slot in `directory` (a file descriptor) and take its lock.

        Raises:
            FileExistsError: a slot is never taken over by another keeper.
            OSError: no room, no right.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self.fd, 0, SLOT_SIZE)
        except OSError:
            os.close(self.fd)
            os.unlink(name, dir_fd=directory)
            raise
        self._turn = RECORD_COUNT - 1
        self._at = 0

    def write_header(self, header: dict[str, Any]) -> None:
        """Say whose slot it is."""
        os.pwrite(self.fd, _block({"version": VERSION, **header}, PAGE_SIZE), 0)

    def begin(self, start: dict[str, Any]) -> None:
        """Turn to the other record and write that `start["job"]` is about to be started there."""
        self._turn = (self._turn + 1) % RECORD_COUNT
        self._at = PAGE_SIZE + self._turn * RECORD_SIZE
        page = _block(start, _ROOM[_START]).ljust(_PROGRESS, b"\0")
        # One write clears what the record said of its earlier job: no end, no progress, a new start.
        os.pwrite(self.fd, page + bytes(_END + _BLOCK.size - _PROGRESS), self._at)

    def progress(self, content: dict[str, Any]) -> None:
        """Say how much is stored."""
        os.pwrite(self.fd, _block(content, _ROOM[_PROGRESS]), self._at + _PROGRESS)

    def end(self, content: dict[str, Any]) -> None:
        """Write how the job ended; its `detail`, the one free text in it, is shortened to fit."""
        while True:
            try:
                block = _block(content, _ROOM[_END])
                break
            except ValueError:
                content = {**content, "detail": content["detail"][: len(content["detail"]) // 2]}
        os.pwrite(self.fd, block, self._at + _END)

    def write_entry(self, number: int, entry: IndexEntry) -> None:
        """Write the index entry with this number, below `INDEX_CAPACITY`."""
        os.pwrite(self.fd, entry.pack(), self._at + _INDEX + number * ENTRY_SIZE)

    def write_data(self, position: int, data: bytes | memoryview) -> None:
        """Write output at its position; `position + len(data)` is at most `DATA_CAPACITY`."""
        os.pwrite(self.fd, data, self._at + _DATA + position)


class SlotReader:
    """A slot as others see it. Everything is read anew at each call; nothing is believed without its CRC."""

    def __init__(self, directory: int, name: str) -> None:
        """Open the slot for reading.

        Raises:
            FileNotFoundError: there is none of this name; a link, a pipe or a directory is none.
        """
        try:
            self.fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except OSError as error:
            # A link or a socket. All else (no descriptors left, say) tells nothing about the slot.
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise FileNotFoundError(errno.ENOENT, "no slot", name) from None
            raise
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.close(self.fd)
            raise FileNotFoundError(errno.ENOENT, "no slot", name)
        self._likely = 0

    def close(self) -> None:
        """Let go of the file; a second time is none: the number may be another file's by then."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def keeper_is_gone(self) -> bool:
        """Whether the keeper's lock is free: only then may anybody judge what the slot says."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return True

    def header(self) -> dict[str, Any] | None:
        """Whose slot it is, or None if that cannot be read."""
        page = os.pread(self.fd, PAGE_SIZE, 0)
        return _unblock(page, 0, PAGE_SIZE) if len(page) == PAGE_SIZE else None

    def is_sound(self) -> bool:
        """Whether all of it is there and readable, so that its silence about a job means something."""
        if os.fstat(self.fd).st_size != SLOT_SIZE or self.header() is None:
            return False
        pages = [self._page(number) for number in range(RECORD_COUNT)]
        return all(_unblock(page, _START, _ROOM[_START]) or not any(page[:_PROGRESS]) for page in pages)

    def records(self) -> list[Record]:
        """The jobs of which this slot says at least that they were about to start."""
        return [record for record in map(self._record, range(RECORD_COUNT)) if record is not None]

    def find(self, job: int, token: str) -> Record | None:
        """What the slot says of this job under this token, or None: nothing was ever started under it here."""
        for number in (self._likely, 1 - self._likely):
            record = self._record(number)
            if record and (record.job, record.token) == (job, token):
                self._likely = 1 - number  # they are used in turn
                return record
        return None

    def index(self, record: Record, count: int) -> bytes:
        """The first `count` index entries (at most `INDEX_CAPACITY` of them are here)."""
        return os.pread(self.fd, min(count, INDEX_CAPACITY) * ENTRY_SIZE, self._place(record) + _INDEX)

    def data(self, record: Record, position: int, limit: int) -> bytes:
        """Output from `position` on, as far as it lies in the slot."""
        limit = min(limit, DATA_CAPACITY - position)
        return os.pread(self.fd, limit, self._place(record) + _DATA + position) if limit > 0 else b""

    def fingerprint(self) -> bytes:
        """Bytes that differ whenever a start or a progress was written since: to be compared, not to be read."""
        return b"".join(os.pread(self.fd, _END, PAGE_SIZE + number * RECORD_SIZE) for number in range(RECORD_COUNT))

    def still_holds(self, record: Record) -> bool:
        """Whether the record is still about the same job, so that what was read of it before was its own."""
        now = self._record(record.number)
        return now is not None and (now.job, now.token) == (record.job, record.token)

    def _place(self, record: Record) -> int:
        return PAGE_SIZE + record.number * RECORD_SIZE

    def _record(self, number: int) -> Record | None:
        page = self._page(number)
        start = _unblock(page, _START, _ROOM[_START])
        if start is None:
            return None
        progress = _unblock(page, _PROGRESS, _ROOM[_PROGRESS]) or {}
        return Record(number, start["job"], start["token"], start, progress, _end(page, start))

    def _page(self, number: int) -> bytes:
        for _ in range(100):  # a torn `progress` is one that is being written: it is whole at a later look
            page = os.pread(self.fd, PAGE_SIZE, PAGE_SIZE + number * RECORD_SIZE).ljust(PAGE_SIZE, b"\0")
            written = any(page[_PROGRESS : _PROGRESS + _BLOCK.size])
            if not written or _unblock(page, _PROGRESS, _ROOM[_PROGRESS]):
                break
        return page


def _end(page: bytes, start: dict[str, Any]) -> dict[str, Any] | None:
    end = _unblock(page, _END, _ROOM[_END])
    return end if end and (end.get("job"), end.get("token")) == (start["job"], start["token"]) else None
