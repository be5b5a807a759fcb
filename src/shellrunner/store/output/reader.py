"""The one reader of output: slot, row and files are its private matter.

Owned by the store. A running attempt's beginning is read from its slot, and then the slot is asked whether it was
still that one's; if not, the attempt has ended meanwhile and its row has it. Must not know bells or writes.
"""

import asyncio
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from shellrunner.errors import NoSuchAttempt, NoSuchJob, ResultGone
from shellrunner.keeper.slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY, Record, SlotReader, slot_name
from shellrunner.model import State, Stream, Volume
from shellrunner.store import Extent, Head, Output
from shellrunner.store.output import index
from shellrunner.store.output.index import STREAMS, IndexedOutput
from shellrunner.store.output.joined import JoinedAttempts
from shellrunner.store.output.spill import Spill
from shellrunner.store.sqlite.batch_queue import UnitOfWork

T = TypeVar("T")
Read = Callable[[IndexedOutput], T]

LOOK = """SELECT state, attempt, keeper, token, stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped,
    entries, data FROM jobs LEFT JOIN outputs ON outputs.job = jobs.id
    WHERE jobs.id = ?"""
EARLIER = """SELECT stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped FROM attempts
    WHERE job = ? AND number < ? ORDER BY number"""
ONE_EARLIER = """SELECT stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped, entries, data FROM attempts
    WHERE job = ? AND number = ?"""


@dataclass(frozen=True, slots=True)
class SlotOwner:
    """Who has a running job, and so in which slot it writes; and which of its attempts it is."""

    keeper: int
    token: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """What its row says of the output of an attempt that is over."""

    volume: Volume
    head: Head


@dataclass(frozen=True, slots=True)
class OutputLocation:
    """Where the output of an attempt is, if it has any yet; and what the attempts wrote that go before it."""

    attempt: int
    here: SlotOwner | Recorded | None
    earlier: Sequence[Volume] = ()


class Reads(Protocol):
    """Has a unit run that reads the history."""

    async def __call__(self, unit: UnitOfWork[T], /) -> T: ...


def look(db: sqlite3.Connection, job_id: int, attempt: int | None = None) -> OutputLocation:
    """Where the output of all attempts of this job is, or of one of them alone.

    Raises:
        NoSuchJob, ResultGone.
    """
    row = db.execute(LOOK, (job_id,)).fetchone()
    if row is None:
        raise NoSuchJob(job_id)
    state, latest, keeper, token, *figures, index, data = row
    if attempt is not None and attempt > latest:
        raise NoSuchAttempt(job_id, attempt)
    if state == State.DONE and figures[0] is None:
        raise ResultGone(job_id)
    if attempt is not None and attempt < latest:
        return OutputLocation(attempt, _earlier(db, job_id, attempt))
    here: SlotOwner | Recorded | None = None
    if state == State.DONE:
        here = Recorded(Volume(*figures), Head(data or b"", index or b""))
    elif state == State.RUNNING:
        here = SlotOwner(keeper, token, latest)
    if attempt is not None or latest == 1:
        return OutputLocation(latest, here)
    return OutputLocation(latest, here, [Volume(*row) for row in db.execute(EARLIER, (job_id, latest))])


def _earlier(db: sqlite3.Connection, job_id: int, attempt: int) -> Recorded:
    *figures, index, data = db.execute(ONE_EARLIER, (job_id, attempt)).fetchone()
    return Recorded(Volume(*figures), Head(data, index))


class Outputs:
    """Finds the output of any job."""

    def __init__(self, state: str, read: Reads) -> None:
        self._state = state
        self._slots = os.open(f"{state}/slots", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._read = read

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._slots)

    async def find(self, job: int, owner: SlotOwner | None, attempt: int | None = None) -> Output:
        """The output as it is now, of all attempts or of one; `owner` is who was last known to have the job, if it
        was running."""
        tried = None
        if owner and owner.attempt == 1 and attempt in (None, 1):
            if (here := self._in_slot(job, owner)) is not None:
                return here
            tried = owner
        while True:
            # Nothing in the slot: the attempt is over by now, or nothing of it was started yet.
            found = await self._look(job, attempt)
            if not isinstance(found.here, SlotOwner) or found.here == tried:
                return self._joined(job, found, self._in_row(job, found))
            if (here := self._in_slot(job, found.here)) is not None:
                return self._joined(job, found, here)
            tried = found.here

    def fingerprint(self, job: int, owner: SlotOwner) -> bytes:
        """Bytes that differ whenever the job's output has grown."""
        try:
            slot = SlotReader(self._slots, slot_name(owner.keeper))
        except OSError:
            return b""
        try:
            return slot.fingerprint()
        finally:
            slot.close()

    async def _look(self, job: int, attempt: int | None) -> OutputLocation:
        return await self._read(partial(look, job_id=job, attempt=attempt))

    def _joined(self, job: int, found: OutputLocation, here: Output) -> Output:
        return JoinedAttempts(found.earlier, here, partial(self._over, job)) if found.earlier else here

    async def _over(self, job: int, attempt: int) -> "_InRow":
        return self._in_row(job, await self._look(job, attempt))

    def _in_row(self, job: int, found: OutputLocation) -> "_InRow":
        recorded = found.here if isinstance(found.here, Recorded) else _NOTHING
        return _InRow(self._state, job, found.attempt, recorded)

    def _in_slot(self, job: int, owner: SlotOwner) -> "_InSlot | None":
        try:
            slot = SlotReader(self._slots, slot_name(owner.keeper))
        except OSError:
            return None
        try:
            record = slot.find(job, owner.token)
        finally:
            slot.close()
        if record is None:
            return None
        return _InSlot(self._state, self._slots, owner, record, partial(self._over, job, owner.attempt))


class _Reading(ABC):
    """The three ways to read; how one gets at the bytes is the subclass's matter."""

    def __init__(self, volume: Volume, *, spilled: bool) -> None:
        self._volume = volume
        self._spilled = spilled

    @property
    def volume(self) -> Volume:
        return self._volume

    async def read(self, position: int, limit: int) -> Sequence[Extent]:
        return await self.apply(partial(index.read, position=position, limit=limit))

    async def read_stream(self, stream: Stream, offset: int, limit: int) -> bytes:
        return await self.apply(partial(index.read_stream, stream=STREAMS.index(stream), offset=offset, limit=limit))

    async def offset_of(self, stream: Stream, position: int) -> int:
        return await self.apply(partial(index.offset_of, stream=STREAMS.index(stream), position=position))

    @abstractmethod
    async def apply(self, read: Read[T]) -> T:
        """Read where the output lies."""

    async def _apart(self, function: Callable[[], T]) -> T:
        """Slots and rows are in memory; files may keep a disk busy, so they are read off the loop's thread."""
        return await asyncio.to_thread(function) if self._spilled else function()


class _InRow(_Reading):
    def __init__(self, state: str, job: int, attempt: int, recorded: Recorded) -> None:
        whole = len(recorded.head.index) < INDEX_CAPACITY * ENTRY_SIZE and recorded.volume.stored <= DATA_CAPACITY
        super().__init__(recorded.volume, spilled=not whole)
        self._state, self._job, self._attempt, self._head = state, job, attempt, recorded.head

    def at_first(self, volume: Volume) -> "_InRow":
        """The same when there was no more than this."""
        return _InRow(self._state, self._job, self._attempt, Recorded(volume, self._head))

    async def apply(self, read: Read[T]) -> T:
        return await self._apart(lambda: self._from_row(read))

    def _from_row(self, read: Read[T]) -> T:
        count = len(self._head.index) // ENTRY_SIZE
        with Spill(self._state, self._job, self._attempt) as spill:
            if count == INDEX_CAPACITY:
                count += spill.entries()
            return read(IndexedOutput(_HeadOfRow(self._head), spill, count, self._volume))


class _InSlot(_Reading):
    def __init__(
        self, state: str, slots: int, owner: SlotOwner, record: Record, once_over: Callable[[], Awaitable["_InRow"]]
    ) -> None:
        self._count = _count(record.progress, "entries")
        figures = [_count(record.progress, name) for name in ("stdout", "stderr", "stdout_dropped", "stderr_dropped")]
        volume = Volume(*figures)
        super().__init__(volume, spilled=self._count > INDEX_CAPACITY or volume.stored > DATA_CAPACITY)
        self._state, self._slots, self._owner, self._record, self._once_over = state, slots, owner, record, once_over

    async def apply(self, read: Read[T]) -> T:
        try:
            return await self._apart(lambda: self._from_slot(read))
        except _Overwritten:
            # The bytes are the same there; how many of them there were at our time, only we know.
            return await (await self._once_over()).at_first(self._volume).apply(read)

    def _from_slot(self, read: Read[T]) -> T:
        try:
            slot = SlotReader(self._slots, slot_name(self._owner.keeper))
        except OSError:
            raise _Overwritten from None
        try:
            with Spill(self._state, self._record.job, self._owner.attempt) as spill:
                result = read(IndexedOutput(_HeadOfSlot(slot, self._record), spill, self._count, self._volume))
            if not slot.still_holds(self._record):
                raise _Overwritten
            return result
        finally:
            slot.close()


class _Overwritten(Exception):
    """The slot holds another job by now, so what was read of it may be that one's."""


@dataclass(frozen=True, slots=True)
class _HeadOfSlot:
    slot: SlotReader
    record: Record

    def index(self, count: int) -> bytes:
        return self.slot.index(self.record, count)

    def data(self, position: int, limit: int) -> bytes:
        return self.slot.data(self.record, position, limit)


@dataclass(frozen=True, slots=True)
class _HeadOfRow:
    head: Head

    def index(self, count: int) -> bytes:
        return self.head.index[: count * ENTRY_SIZE]

    def data(self, position: int, limit: int) -> bytes:
        return self.head.data[position : position + limit]


_NOTHING: Final = Recorded(Volume(), Head())


def _count(progress: dict[str, Any], name: str) -> int:
    """A figure from the slot; anything but a count is damage, and counts as nothing."""
    value = progress.get(name, 0)
    return value if isinstance(value, int) and value >= 0 else 0
