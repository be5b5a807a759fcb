"""The one reader of output: slot, row and files are its private matter.

Owned by the store. A running job's beginning is read from its slot, and then the slot is asked whether it was
still that job's; if not, the job has been finished meanwhile and its row has it. Must not know bells or writes.
"""

import asyncio
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from shellrunner.errors import NoSuchJob, ResultGone
from shellrunner.keeper.slot import DATA_ROOM, ENTRY, INDEX_ROOM, Record, SlotReader, slot_name
from shellrunner.model import State, Stream, Volume
from shellrunner.store import Extent, Head, Output, extents
from shellrunner.store.extents import STREAMS, Place
from shellrunner.store.runs import Spill

T = TypeVar("T")
Read = Callable[[Place], T]

LOOK = """SELECT state, keeper, token, stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped,
    entries, data FROM jobs LEFT JOIN outputs ON outputs.job = jobs.id
    WHERE jobs.id = ?"""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has a running job, and so in which slot it writes."""

    keeper: int
    token: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the row of a job that is done says of its output."""

    volume: Volume
    head: Head


Look = Callable[[], Awaitable[Owner | Recorded | None]]


def look(db: sqlite3.Connection, job_id: int) -> Owner | Recorded | None:
    """Where the output of this job is; None if it has none yet.

    Raises:
        NoSuchJob, ResultGone.
    """
    row = db.execute(LOOK, (job_id,)).fetchone()
    if row is None:
        raise NoSuchJob(job_id)
    state, keeper, token, *figures, index, data = row
    if state != State.DONE:
        return Owner(keeper, token) if state == State.RUNNING else None
    if figures[0] is None:
        raise ResultGone(job_id)
    return Recorded(Volume(*figures), Head(data or b"", index or b""))


class Outputs:
    """Finds the output of any job."""

    def __init__(self, state: str, look_at_row: Callable[[int], Awaitable[Owner | Recorded | None]]) -> None:
        self._state = state
        self._slots = os.open(f"{state}/slots", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._look = look_at_row

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._slots)

    async def find(self, job: int, owner: Owner | None) -> Output:
        """The output as it is now; `owner` is who was last known to have the job, if it was running."""
        here = self._in_slot(job, owner) if owner else None
        while here is None:
            # Nothing in the slot: the job is done by now, or nothing of it was started yet.
            found = await self._look(job)
            if isinstance(found, Recorded):
                return _InRow(self._state, job, found)
            if found is None or found == owner:
                return _InRow(self._state, job, _NOTHING)
            owner = found
            here = self._in_slot(job, owner)
        return here

    def glance(self, job: int, owner: Owner) -> bytes:
        """Bytes that differ whenever the job's output has grown."""
        try:
            slot = SlotReader(self._slots, slot_name(owner.keeper))
        except OSError:
            return b""
        try:
            return slot.glance()
        finally:
            slot.close()

    def _in_slot(self, job: int, owner: Owner) -> "_InSlot | None":
        try:
            slot = SlotReader(self._slots, slot_name(owner.keeper))
        except OSError:
            return None
        try:
            record = slot.find(job, owner.token)
        finally:
            slot.close()
        return _InSlot(self._state, self._slots, owner, record, partial(self._look, job)) if record else None


class _Reading(ABC):
    """The three ways to read; how one gets at the bytes is the subclass's matter."""

    def __init__(self, volume: Volume, *, spilled: bool) -> None:
        self._volume = volume
        self._spilled = spilled

    @property
    def volume(self) -> Volume:
        return self._volume

    async def read(self, position: int, limit: int) -> Sequence[Extent]:
        return await self.apply(partial(extents.read, position=position, limit=limit))

    async def read_stream(self, stream: Stream, offset: int, limit: int) -> bytes:
        return await self.apply(
            partial(extents.read_stream, stream=STREAMS.index(stream), offset=offset, limit=limit)
        )

    async def offset_of(self, stream: Stream, position: int) -> int:
        return await self.apply(partial(extents.offset_of, stream=STREAMS.index(stream), position=position))

    @abstractmethod
    async def apply(self, read: Read[T]) -> T:
        """Read where the output lies."""

    async def _apart(self, function: Callable[[], T]) -> T:
        """Slots and rows are in memory; files may keep a disk busy, so they are read off the loop's thread."""
        return await asyncio.to_thread(function) if self._spilled else function()


class _InRow(_Reading):
    def __init__(self, state: str, job: int, recorded: Recorded) -> None:
        whole = len(recorded.head.index) < INDEX_ROOM * ENTRY and recorded.volume.stored <= DATA_ROOM
        super().__init__(recorded.volume, spilled=not whole)
        self._state, self._job, self._head = state, job, recorded.head

    async def apply(self, read: Read[T]) -> T:
        return await self._apart(lambda: self._from_row(read))

    def _from_row(self, read: Read[T]) -> T:
        count = len(self._head.index) // ENTRY
        with Spill(self._state, self._job) as spill:
            if count == INDEX_ROOM:
                count += spill.entries()
            return read(Place(_HeadOfRow(self._head), spill, count, self._volume))


class _InSlot(_Reading):
    def __init__(self, state: str, slots: int, owner: Owner, record: Record, look_again: Look) -> None:
        self._count = _count(record.progress, "entries")
        figures = [_count(record.progress, name) for name in ("stdout", "stderr", "stdout_dropped", "stderr_dropped")]
        volume = Volume(*figures)
        super().__init__(volume, spilled=self._count > INDEX_ROOM or volume.stored > DATA_ROOM)
        self._state, self._slots, self._owner, self._record, self._look = state, slots, owner, record, look_again

    async def apply(self, read: Read[T]) -> T:
        try:
            return await self._apart(lambda: self._from_slot(read))
        except _Overwritten:
            found = await self._look()
            recorded = found if isinstance(found, Recorded) else _NOTHING
            # The bytes are the same there; how many of them there were at our time, only we know.
            then = Recorded(self._volume, recorded.head)
            return await _InRow(self._state, self._record.job, then).apply(read)

    def _from_slot(self, read: Read[T]) -> T:
        try:
            slot = SlotReader(self._slots, slot_name(self._owner.keeper))
        except OSError:
            raise _Overwritten from None
        try:
            with Spill(self._state, self._record.job) as spill:
                result = read(Place(_HeadOfSlot(slot, self._record), spill, self._count, self._volume))
            if not slot.still(self._record):
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
        return self.head.index[: count * ENTRY]

    def data(self, position: int, limit: int) -> bytes:
        return self.head.data[position : position + limit]


_NOTHING: Final = Recorded(Volume(), Head())


def _count(progress: dict[str, Any], name: str) -> int:
    """A figure from the slot; anything but a count is damage, and counts as nothing."""
    value = progress.get(name, 0)
    return value if isinstance(value, int) and value >= 0 else 0
