"""The slot: the preallocated file in which one keeper records what it witnesses.

Written by the keeper that holds its lock (one flock for the keeper's whole life), read by anyone. Knows files and
bytes; must not know processes or jobs' meaning.

    0       header     the keeper's number and identity, and the history that it belongs to
    4096    record 0   one job: blocks, index, data
    …       record 1   the next job; the two are used in turn

A record has three blocks in its first page (`start`, `progress`, `end`), then space for the first `INDEX_CAPACITY`
index entries and `DATA_CAPACITY` bytes of output. The rest goes to `runs/<job>.<token>.idx` and `.out`, with the
attempt in the name from the second on (`<job>.<attempt>.<token>`). Up to protocol 3 the names had no token.

A block is its length, CRC-32 and content, so a torn one is recognized. The content is a struct (`_Layout`) where
nearly every job has the same members, else JSON; in version 1 all are JSON. The first byte says which.

The life of a slot:

    created, locked, header written                               by the fork server and its new keeper
    begin      start of the nth job into record n mod 2           before the command is spawned
    write_…    index entry, then data, then progress              for each piece of output
    exit       ending, usage, counts so far                       only if what it left behind is waited for
    end        ending, usage, counts, CRCs of the stored part     after the tree is swept, before "ended" is sent
    begin      start of job n+1 into the other record             over job n-1, whose end the history has by then
    unlocked   by the kernel: the keeper is gone                  the slot may be judged, and is removed after that

The order of writes matters. A keeper writes an index entry before the data that it describes, and `progress` (how
much is stored) after both; a reader reads `progress` first, so what it counts is there. Then it checks `start` again:
if that is still the same job's, no part of what was read had been overwritten by another job's.
"""

import errno
import fcntl
import json
import os
import stat
import struct
import zlib
from contextlib import suppress
from operator import itemgetter
from typing import Any, NamedTuple

VERSION = 2
PAGE_SIZE = 4096
DATA_CAPACITY = 65_536  # bytes of output stored in the slot
ENTRY_SIZE = 32  # bytes of an index entry; aligned, so that no entry crosses a page boundary
INDEX_CAPACITY = 512  # index entries stored in the slot
RECORD_SIZE = PAGE_SIZE + INDEX_CAPACITY * ENTRY_SIZE + DATA_CAPACITY
RECORD_COUNT = 2
SLOT_SIZE = PAGE_SIZE + RECORD_COUNT * RECORD_SIZE

_START, _PROGRESS, _END = 0, 512, 1024  # offsets of the blocks in a record's first page
_BLOCK_SIZE = {_START: 512, _PROGRESS: 512, _END: PAGE_SIZE - _END}
_INDEX, _DATA = PAGE_SIZE, PAGE_SIZE + INDEX_CAPACITY * ENTRY_SIZE
_BLOCK = struct.Struct("<II")
_ENTRY = struct.Struct("<QQQQ")
_STDERR_BIT = 1 << 63
_EXIT_ONLY = "exit_only"  # a member of an end that is not final
_MIN_COMMAND = 40  # characters to which the command line of a leftover may be shortened


class ReportedEnding:
    """The endings that a keeper may record: values of members of `model.Ending`, which a keeper cannot import."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    OUTPUT_LIMIT = "output_limit"
    FAILED_TO_START = "failed_to_start"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class _Layout:
    """The content of a block as a struct: a tag, numbers, and the claim's token.

    JSON costs both the keeper and the server a multiple of that, in the blocks that every job has.
    """

    def __init__(
        self, tag: str, numbers: dict[str, str], *, optional: dict[str, str] | None = None, **constants: str | None
    ) -> None:
        """Lay out `numbers` and `optional` ones by their names and formats; an optional one is None or not 0.

        Members that always have the same value, the `constants`, are not stored.
        """
        self.tag = tag.encode()
        self._numbers, self._optional, self._constants = tuple(numbers), tuple(optional or ()), constants
        self._struct = struct.Struct("<c" + "".join([*numbers.values(), *(optional or {}).values()]))
        self._member_count = len(self._numbers) + len(self._optional) + len(constants) + 1  # the token
        self._get_numbers = itemgetter(*numbers)

    def pack(self, content: dict[str, Any]) -> bytes | None:
        """Return the content as bytes; None if it has other members or values."""
        if len(content) != self._member_count:
            return None
        try:
            for name, value in self._constants.items():
                if content[name] != value:
                    return None
            optional = [content[name] for name in self._optional]
            if 0 in optional or "" in optional:  # it would be read as None
                return None
            numbers = (*self._get_numbers(content), *(value or 0 for value in optional))
            token: bytes = content["token"].encode()
            return self._struct.pack(self.tag, *numbers) + token
        except (KeyError, struct.error):  # struct.error: out of range, or None
            return None

    def unpack(self, body: bytes) -> dict[str, Any]:
        """Return the content that `pack` was given.

        Raises:
            ValueError: it is not as `pack` returns it.
        """
        try:
            _, *numbers = self._struct.unpack_from(body)
        except struct.error as error:
            raise ValueError(error) from None
        content = dict(zip(self._numbers + self._optional, numbers, strict=True))
        for name in self._optional:
            content[name] = content[name] or None
        return {**content, **self._constants, "token": body[self._struct.size :].decode()}


_COUNTS = dict.fromkeys(
    ("job", "stdout", "stderr", "entries", "stdout_dropped", "stderr_dropped", "data_crc", "index_crc"), "Q"
)
_TIMES = {"wall": "q", "started": "q", "duration": "d", "cpu_user": "d", "cpu_system": "d"}
_START_LAYOUT = _Layout("s", {"job": "Q", "wall": "q", "attempt": "Q"})
_PROGRESS_LAYOUT = _Layout("p", _COUNTS, optional={"pid": "Q"})
_END_LAYOUT = _Layout(  # of a command that ended by itself and left nothing behind
    "e",
    {**_COUNTS, **_TIMES, "exit_code": "Q"},
    optional={"max_rss_bytes": "Q"},
    ending=ReportedEnding.EXITED,
    signal=None,
    detail=None,
)
_LAYOUTS = {layout.tag: layout for layout in (_START_LAYOUT, _PROGRESS_LAYOUT, _END_LAYOUT)}


class IndexEntry(NamedTuple):
    """An index entry: from `position` on, output is `stream`'s (0 stdout, 1 stderr), from the stream's `offset` on.

    `time` is in nanoseconds since the epoch. An extent ends where the next one begins.
    """

    position: int
    stream: int
    offset: int
    time: int

    def pack(self) -> bytes:
        """Return the entry as `ENTRY_SIZE` bytes."""
        stream_offset = self.offset | (_STDERR_BIT if self.stream else 0)
        return _ENTRY.pack(self.position, stream_offset, self.time, 0)


def parse_index(index: bytes) -> list[IndexEntry]:
    """Return the entries in `index`; an incomplete one at the end is left out."""
    whole = len(index) - len(index) % ENTRY_SIZE
    return [
        IndexEntry(position, int(offset >= _STDERR_BIT), offset & (_STDERR_BIT - 1), time)
        for position, offset, time, _ in _ENTRY.iter_unpack(index[:whole])
    ]


class Record(NamedTuple):
    """A slot's record of one job. `end` is None if it is missing or torn.

    `exit` is set instead of it from the command's own exit on, for as long as something that it left behind is waited
    for: an end without the final counts.
    """

    number: int
    job: int
    token: str
    start: dict[str, Any]
    progress: dict[str, Any]
    end: dict[str, Any] | None
    exit: dict[str, Any] | None = None

    @property
    def attempt(self) -> int:
        """Which attempt of the job this is, counted from 1."""
        return int(self.start.get("attempt", 1))


def slot_name(keeper: int) -> str:
    """Return the slot's file name in `slots/`."""
    return f"{keeper}.slot"


def socket_name(keeper: int) -> str:
    """Return the name of the socket beside the slot, on which its keeper listens."""
    return f"{keeper}.sock"


def data_path(job: int, attempt: int = 1, token: str | None = None) -> str:
    """Return the path of an attempt's output beyond the slot, relative to the state directory.

    Without a token it is the name that earlier versions gave.
    """
    return f"runs/{_stem(job, attempt, token)}.out"


def index_path(job: int, attempt: int = 1, token: str | None = None) -> str:
    """Return the path of an attempt's index beyond the slot, relative to the state directory; see `data_path`."""
    return f"runs/{_stem(job, attempt, token)}.idx"


def _stem(job: int, attempt: int, token: str | None) -> str:
    name = f"{job}" if attempt == 1 else f"{job}.{attempt}"
    return name if token is None else f"{name}.{token}"


def _pack_block(content: dict[str, Any], size: int, layout: _Layout | None = None) -> bytes:
    body = (layout and layout.pack(content)) or _encode(content).encode()
    if len(body) + _BLOCK.size > size:
        raise ValueError(f"a block of {len(body)} bytes where {size} fit")
    return _BLOCK.pack(len(body), zlib.crc32(body)) + body


def _unpack_block(page: bytes, at: int, size: int) -> dict[str, Any] | None:
    length, crc = _BLOCK.unpack_from(page, at)
    body = page[at + _BLOCK.size : at + _BLOCK.size + length]
    if not 0 < length <= size - _BLOCK.size or zlib.crc32(body) != crc:
        return None
    layout = _LAYOUTS.get(body[:1])
    try:
        content = layout.unpack(body) if layout else json.loads(body)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _shorten(end: dict[str, Any]) -> dict[str, Any]:
    """Return an end with less text: shorter command lines of leftovers, then fewer, and at last less of `detail`."""
    leftovers = end.get("leftovers")
    if not leftovers:
        return {**end, "detail": end["detail"][: len(end["detail"]) // 2]}
    longest = max(len(process["command"]) for process in leftovers)
    if longest <= _MIN_COMMAND:
        return {**end, "leftovers": leftovers[:-1]}
    size = max(longest // 2, _MIN_COMMAND)
    shorter = [{**process, "command": shorten(process["command"], size)} for process in leftovers]
    return {**end, "leftovers": shorter}


def shorten(text: str, size: int) -> str:
    """Return the text, or its beginning and an ellipsis: at most so many characters."""
    return text if len(text) <= size else f"{text[: size - 1]}…"


class SlotWriter:
    """A slot for its keeper: locked for the keeper's life, written in place, never synced."""

    def __init__(self, fd: int) -> None:
        """Write into an empty file."""
        self.fd = fd
        self._turn = RECORD_COUNT - 1
        self._at = 0
        self._unwritten_ends: dict[int, bytes] = {}  # by offset: blocks that the disk did not take

    @classmethod
    def create(cls, directory: int, name: str) -> "SlotWriter":
        """Create the slot in `directory` (a descriptor) and take its lock.

        Raises:
            FileExistsError: another keeper's slot is never taken over.
            OSError: no space, or no permission.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(fd, 0, SLOT_SIZE)
        except OSError:
            with suppress(OSError):
                os.close(fd)
            with suppress(OSError):
                os.unlink(name, dir_fd=directory)
            raise
        return cls(fd)

    def write_header(self, header: dict[str, Any]) -> None:
        """Write the header."""
        self._write(_pack_block({"version": VERSION, **header}, PAGE_SIZE), 0)

    def begin(self, start: dict[str, Any]) -> None:
        """Switch to the other record, and write there that `start["job"]` is about to be started."""
        turn = (self._turn + 1) % RECORD_COUNT
        at = PAGE_SIZE + turn * RECORD_SIZE
        page = _pack_block(start, _BLOCK_SIZE[_START], _START_LAYOUT).ljust(_PROGRESS, b"\0")
        # One write replaces the start and clears the progress and end of the record's earlier job.
        self._write(page + bytes(_END + _BLOCK.size - _PROGRESS), at)
        self._turn, self._at = turn, at
        self._unwritten_ends.pop(at + _END, None)  # the history has that end by now

    def progress(self, content: dict[str, Any]) -> None:
        """Write how much is stored."""
        self._write(_pack_block(content, _BLOCK_SIZE[_PROGRESS], _PROGRESS_LAYOUT), self._at + _PROGRESS)

    def exit(self, content: dict[str, Any]) -> None:
        """Write how the command itself ended, where the end will be; if that fails, only the end says it."""
        with suppress(OSError, ValueError):
            self._write(_pack_block({**content, _EXIT_ONLY: True}, _BLOCK_SIZE[_END]), self._at + _END)

    def end(self, content: dict[str, Any]) -> bool:
        """Write how the job ended; its free text is shortened to fit.

        Returns:
            False if it could not be written: then it is kept for `write_ends`.
        """
        while True:
            try:
                block = _pack_block(content, _BLOCK_SIZE[_END], _END_LAYOUT)
                break
            except ValueError:
                content = _shorten(content)
        self._unwritten_ends[self._at + _END] = block
        return self.write_ends()

    def write_ends(self) -> bool:
        """Write the ends that could not be written before; return whether all are written now."""
        try:
            for at, block in list(self._unwritten_ends.items()):
                self._write(block, at)
                del self._unwritten_ends[at]
        except OSError:  # EROFS, EIO; ENOSPC where files are written copy-on-write, although it is preallocated
            return False
        return True

    def write_entry(self, number: int, entry: IndexEntry) -> None:
        """Write the index entry with this number, below `INDEX_CAPACITY`."""
        self._write(entry.pack(), self._at + _INDEX + number * ENTRY_SIZE)

    def write_data(self, position: int, data: bytes | memoryview) -> None:
        """Write output at its position; `position + len(data)` is at most `DATA_CAPACITY`."""
        self._write(data, self._at + _DATA + position)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        written = os.pwrite(self.fd, data, at)
        while written < len(data):  # pwrite(2) may write a part, and then say why with the next call
            more = os.pwrite(self.fd, data[written:], at + written)
            if more == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += more


class SlotReader:
    """A slot for its readers. Every call reads the file again, and trusts only what matches its CRC."""

    def __init__(self, directory: int, name: str) -> None:
        """Open the slot for reading.

        Raises:
            FileNotFoundError: there is no regular file of this name; links are not followed.
        """
        try:
            self.fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except OSError as error:
            # A link or a socket. Other errors (no descriptors left, for example) say nothing about the slot.
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise FileNotFoundError(errno.ENOENT, "no slot", name) from None
            raise
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.close(self.fd)
            raise FileNotFoundError(errno.ENOENT, "no slot", name)
        self._next_found = 0

    def close(self) -> None:
        """Close the file; a second call does nothing, as the descriptor may be another file's by then."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def keeper_is_gone(self) -> bool:
        """Return whether the keeper's lock is free; only then may the slot be judged."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return True

    def header(self) -> dict[str, Any] | None:
        """Return the header, or None if it cannot be read."""
        page = os.pread(self.fd, PAGE_SIZE, 0)
        return _unpack_block(page, 0, PAGE_SIZE) if len(page) == PAGE_SIZE else None

    def is_blank(self) -> bool:
        """Return whether nothing was ever written into it: its keeper ended before it wrote the header."""
        pages = [os.pread(self.fd, PAGE_SIZE, 0), *map(self._page, range(RECORD_COUNT))]
        return not any(map(any, pages))

    def is_sound(self) -> bool:
        """Return whether it is complete and readable, so that a missing record proves that a job was not started."""
        if os.fstat(self.fd).st_size != SLOT_SIZE or self.header() is None:
            return False
        pages = [self._page(number) for number in range(RECORD_COUNT)]
        return all(_unpack_block(page, _START, _BLOCK_SIZE[_START]) or not any(page[:_PROGRESS]) for page in pages)

    def records(self) -> list[Record]:
        """Return the records whose start is readable."""
        return [record for record in map(self._record, range(RECORD_COUNT)) if record is not None]

    def find(self, job: int, token: str) -> Record | None:
        """Return the record of this job and token; None if there is none."""
        for number in (self._next_found, 1 - self._next_found):
            record = self._record(number)
            if record and (record.job, record.token) == (job, token):
                self._next_found = 1 - number  # they are used in turn
                return record
        return None

    def index(self, record: Record, count: int) -> bytes:
        """Return the first `count` index entries, at most `INDEX_CAPACITY` of them."""
        return os.pread(self.fd, min(count, INDEX_CAPACITY) * ENTRY_SIZE, self._offset(record) + _INDEX)

    def data(self, record: Record, position: int, limit: int) -> bytes:
        """Return at most `limit` bytes of output from `position` on, as far as they are in the slot."""
        limit = min(limit, DATA_CAPACITY - position)
        return os.pread(self.fd, limit, self._offset(record) + _DATA + position) if limit > 0 else b""

    def fingerprint(self) -> bytes:
        """Return bytes that change with each write of a start or a progress; only for comparison."""
        return b"".join(os.pread(self.fd, _END, PAGE_SIZE + number * RECORD_SIZE) for number in range(RECORD_COUNT))

    def still_holds(self, record: Record) -> bool:
        """Return whether the record is still the same job's, so that what was read of it before was that job's."""
        now = self._record(record.number)
        return now is not None and (now.job, now.token) == (record.job, record.token)

    def _offset(self, record: Record) -> int:
        return PAGE_SIZE + record.number * RECORD_SIZE

    def _record(self, number: int) -> Record | None:
        page = self._page(number)
        start = _unpack_block(page, _START, _BLOCK_SIZE[_START])
        if start is None:
            return None
        progress = _unpack_block(page, _PROGRESS, _BLOCK_SIZE[_PROGRESS]) or {}
        end = _end(page, start)
        final, exit_only = (None, end) if end and end.get(_EXIT_ONLY) else (end, None)
        return Record(number, start["job"], start["token"], start, progress, final, exit_only)

    def _page(self, number: int) -> bytes:
        for _ in range(100):  # a torn `progress` is being written, and whole a moment later
            page = os.pread(self.fd, PAGE_SIZE, PAGE_SIZE + number * RECORD_SIZE).ljust(PAGE_SIZE, b"\0")
            written = any(page[_PROGRESS : _PROGRESS + _BLOCK.size])
            if not written or _unpack_block(page, _PROGRESS, _BLOCK_SIZE[_PROGRESS]):
                break
        return page


def _end(page: bytes, start: dict[str, Any]) -> dict[str, Any] | None:
    end = _unpack_block(page, _END, _BLOCK_SIZE[_END])
    return end if end and (end.get("job"), end.get("token")) == (start["job"], start["token"]) else None
