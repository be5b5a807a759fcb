"""Read the output of an attempt from its chunks: a `ByteSource` of any node.

Made by `chunk_storage`. A read is a unit of work on one of the engine's reading connections, and takes as many rows
as its limit allows. Must not know who has sent the chunks, or whether more will follow.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeVar

from shellrunner.keeper.slot import ENTRY_SIZE, parse_index
from shellrunner.model import Volume
from shellrunner.store.db import Db, UnitOfWork
from shellrunner.store.output.index import IndexedOutput
from shellrunner.store.output.segments import Segment
from shellrunner.store.postgres.engine.dialect import BinaryResult
from shellrunner.store.postgres.output_chunks import chunk_rows

T = TypeVar("T")

_READ_AHEAD: Final = 1 << 16  # bytes that are read at least: many extents are shorter
_LONG_READ: Final = 1 << 17  # bytes from which on a read is one of several that follow each other, as it seems
_MAX_READ_AHEAD: Final = 1 << 20  # bytes that are read then
_MAX_INDEX_AT_ONCE: Final = 512 * ENTRY_SIZE  # bytes
_OF: Final = "job = ? AND attempt = ?"
_COLUMNS: Final = "position, length, stdout, first_entry, entries"
_LAST_BEFORE: Final = {
    measure: f"""SELECT position FROM chunks WHERE {_OF} AND {column} <= ?
        ORDER BY {column} DESC, position DESC LIMIT 1"""  # noqa: S608
    for measure, column in ((0, "stdout"), (1, "(position - stdout)"), ("entry", "first_entry"))
}
# From the chunk before the one at a position on, until there is enough of the index.
_WINDOW: Final = BinaryResult(f"""SELECT {_COLUMNS} FROM (
    SELECT {_COLUMNS}, sum(octet_length(entries)) OVER (ORDER BY position) - octet_length(entries) AS before FROM (
        SELECT {_COLUMNS} FROM chunks WHERE {_OF} AND position >= coalesce((SELECT position FROM chunks WHERE {_OF}
            AND position <= ? ORDER BY position DESC OFFSET 1 LIMIT 1), 0) ORDER BY position LIMIT 256) AS following
    ) AS measured WHERE before < 262144 ORDER BY position""")  # noqa: S608
_DATA: Final = BinaryResult(f"""SELECT position, substring(data
        FROM (greatest(? - position, 0) + 1)::int FOR (? - greatest(?, position))::int)
    FROM chunks WHERE {_OF} AND position < ? AND position >= coalesce((SELECT position FROM chunks WHERE {_OF}
        AND position <= ? ORDER BY position DESC LIMIT 1), 0) ORDER BY position LIMIT 4096""")  # noqa: S608
# What is missing before a chunk grows with each gap, so it numbers the parts between the gaps.
_EXTENTS: Final = f"""SELECT min(position), max(position + length) FROM chunks WHERE {_OF} GROUP BY missing
    ORDER BY missing"""  # noqa: S608
_BEGINS: Final = f"""SELECT DISTINCT ON (missing) position, stdout, first_entry,
    substring(entries FROM 1 FOR {ENTRY_SIZE}) FROM chunks WHERE {_OF} ORDER BY missing, position"""  # noqa: S608
_ENDS: Final = f"""SELECT DISTINCT ON (missing) position + length, stdout + stdout_length,
    first_entry + octet_length(entries) / {ENTRY_SIZE} FROM chunks WHERE {_OF} ORDER BY missing, position DESC"""  # noqa: S608


class RunUnit(Protocol):
    """Runs a unit that reads."""

    async def __call__(self, unit: UnitOfWork[T], /) -> T: ...


class _IndexedChunk(NamedTuple):
    """A chunk without its data."""

    position: int
    length: int
    stdout: int
    first_entry: int
    entries: bytes

    def begin(self, stream: int | None) -> int:
        """Return its position (None), or its offset in a stream."""
        if stream is None:
            return self.position
        return self.stdout if stream == 0 else self.position - self.stdout

    @property
    def stop_entry(self) -> int:
        """The number of the entry after its last one."""
        return self.first_entry + len(self.entries) // ENTRY_SIZE


class ChunkSource:
    """The bytes and the index of one attempt, up to a volume."""

    has_files = False

    def __init__(self, run_read: RunUnit, job_id: int, attempt: int, volume: Volume) -> None:
        self._run_read, self._key = run_read, (job_id, attempt)
        self.volume = volume
        self._sent: chunk_rows.Sent | None = None  # when it was read first
        # Parts of the index that follow each other, and data with its position, read last. Each is replaced as a
        # whole: several threads may read.
        self.window: Sequence[_IndexedChunk] = ()
        self.buffer = (0, b"")

    async def apply(self, read: Callable[[IndexedOutput], T]) -> T:
        """Run a read; at once if all that it needs was read before."""

        def unit(db: Db) -> T:
            sent = self._read_sent(db)
            return read(IndexedOutput(None, _ChunkTail(db, self, self._key, sent), sent.entries, self.volume))

        # An index of many short extents is not walked on the event loop's thread.
        if self.buffer[1] and sum(len(part.entries) for part in self.window) <= _MAX_INDEX_AT_ONCE:
            with suppress(_NotAtHandError):
                return unit(_NO_DATABASE)
        return await self._run_read(unit)

    async def survey(self, *, thorough: bool) -> Sequence[Segment] | None:
        """Return the parts that are there: the sender has found out which these are."""
        return await self._run_read(self._survey)

    def read_both(self, limit: int) -> tuple[bytes, bytes] | None:
        """Return None: reading chunks takes waiting."""
        return None

    def _read_sent(self, db: Db) -> chunk_rows.Sent:
        if self._sent is None:
            self._sent = chunk_rows.sent(db, *self._key)
        return self._sent

    def _survey(self, db: Db) -> Sequence[Segment] | None:
        sent = self._read_sent(db)
        if sent.missing == 0 and sent.volume.stored >= self.volume.stored:
            return None
        found: list[Segment] = []
        begins, ends = (db.execute(BinaryResult(sql), self._key).fetchall() for sql in (_BEGINS, _ENDS))
        for (position, stdout, first, entry), (end, end_stdout, stop) in zip(begins, ends, strict=True):
            begin = Volume(stdout, position - stdout)
            own = parse_index(entry)
            covering = first if own and own[0].position <= position else first - 1
            if position < self.volume.stored:
                last = Volume(end_stdout, end - end_stdout) if end <= self.volume.stored else self.volume
                found.append(Segment(covering, stop, begin, last))
        return found


class _ChunkTail:
    """The chunks as `IndexedOutput` reads them, in one transaction."""

    def __init__(self, db: Db, source: ChunkSource, key: tuple[int, int], sent: chunk_rows.Sent) -> None:
        self._db, self._source, self._key, self._sent = db, source, key, sent

    def index(self, number: int, count: int) -> bytes:
        """Return entries, up to `count`: those that are at hand, at least one if there is one."""
        window = self._window_of(number)
        at = bisect_right(window, number, key=lambda part: part.first_entry) - 1
        pieces: list[bytes] = []
        for part in islice(window, max(at, 0), None):
            offset = number - part.first_entry
            if count <= 0 or offset < 0 or (offset > 0 and number >= part.stop_entry):
                break
            piece = part.entries[offset * ENTRY_SIZE : (offset + count) * ENTRY_SIZE]
            pieces.append(piece)
            number, count = number + len(piece) // ENTRY_SIZE, count - len(piece) // ENTRY_SIZE
        return b"".join(pieces)

    def data(self, position: int, limit: int) -> bytes:
        """Return at most `limit` bytes."""
        begin, buffer = self._source.buffer
        if not (begin <= position and position + limit <= begin + len(buffer)):
            ahead = _MAX_READ_AHEAD if limit >= _LONG_READ else _READ_AHEAD
            begin, buffer = position, self._read_data(position, max(limit, ahead))
            self._source.buffer = begin, buffer
        return buffer[position - begin : position - begin + limit]

    def extents(self) -> list[tuple[int, int]]:
        """Return the parts between the gaps."""
        if self._sent.missing == 0:
            return [(0, self._sent.volume.stored)]
        return [(begin, end) for begin, end in self._db.execute(_EXTENTS, self._key).fetchall()]

    def narrow(self, stream: int | None, value: int, first: int, count: int) -> range:
        """Return the entries of the last chunk that begins at or before `value`, and the one before them."""
        window = self._source.window
        at = _place_in(window, stream, value)
        is_last = window and window[-1].position + window[-1].length >= self._sent.volume.stored
        if not (0 < at < len(window) or (at and is_last)):  # what precedes it, or follows it, is not known
            position = value if stream is None else self._position_of(_LAST_BEFORE[stream], value)
            window = self._load(position)
            at = _place_in(window, None, position)
        found = window[at - 1] if at > 0 else _NOWHERE
        start = min(max(found.first_entry - 1, first), count)
        return range(start, max(start, min(found.stop_entry, count)))

    def _window_of(self, number: int) -> Sequence[_IndexedChunk]:
        window = self._source.window
        if window and window[0].first_entry <= number < window[-1].stop_entry:
            return window
        return self._load(self._position_of(_LAST_BEFORE["entry"], number))

    def _position_of(self, sql: str, value: int) -> int:
        row = self._db.execute(sql, (*self._key, value)).fetchone()
        return row[0] if row is not None else 0

    def _load(self, position: int) -> Sequence[_IndexedChunk]:
        rows = self._db.execute(_WINDOW, (*self._key, *self._key, position)).fetchall()
        window = [_IndexedChunk(*row) for row in rows]
        self._source.window = window
        return window

    def _read_data(self, position: int, limit: int) -> bytes:
        end = position + limit
        values = (position, end, position, *self._key, end, *self._key, position)
        pieces: list[bytes] = []
        at = position
        for begin, piece in self._db.execute(_DATA, values).fetchall():
            if max(begin, position) != at:
                break  # a gap
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)


class _NotAtHandError(Exception):
    """It has to be read from the database."""


class _NoDatabase:
    """A `Db` for reads of what was read before."""

    def execute(self, _: str, parameters: Sequence[Any] = (), /) -> NoReturn:
        """Refuse."""
        raise _NotAtHandError

    def executemany(self, _: str, parameters: Iterable[Sequence[Any]], /) -> NoReturn:
        """Refuse."""
        raise _NotAtHandError


_NO_DATABASE: Final = _NoDatabase()
_NOWHERE: Final = _IndexedChunk(0, 0, 0, 0, b"")


def _place_in(window: Sequence[_IndexedChunk], stream: int | None, value: int) -> int:
    """Return how many parts begin at or before `value`."""
    return bisect_right(window, value, key=lambda part: part.begin(stream))
