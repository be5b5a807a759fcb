"""Output stored on this host: keepers' slots, the heads in rows, and spill files.

Owned by the store. The only module of `output` that knows the state directory. Must not know SQL or notifications.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from shellrunner.keeper.slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY, Record, SlotReader, slot_name
from shellrunner.model import Volume
from shellrunner.store.output import Head, segments
from shellrunner.store.output.index import IndexedOutput
from shellrunner.store.output.location import Recorded, SlotOwner
from shellrunner.store.output.segments import Segment
from shellrunner.store.output.slot_events import SlotEvents
from shellrunner.store.output.spill import Spill

T = TypeVar("T")
_MAX_SURVEYS: Final = 256
Read = Callable[[IndexedOutput], T]
Survey = Sequence[Segment] | None  # see `segments.survey`


class LocalStorage:
    """The slots and spill files of one state directory."""

    def __init__(self, state_dir: str) -> None:
        self.state_dir = state_dir
        self.slots = os.open(f"{state_dir}/slots", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._slot_events = SlotEvents(f"{state_dir}/slots")
        self._surveys = _Surveys()

    def close(self) -> None:
        """Close the directory of slots, and forget what is watched."""
        self._slot_events.close()
        os.close(self.slots)

    def open_slot(
        self,
        job_id: int,
        owner: SlotOwner,
        find_recorded: Callable[[], Awaitable[Recorded]],
        open_recorded: "OpenRecorded | None" = None,
    ) -> "_SlotSource | None":
        """Open a running attempt; None if its slot has nothing of it.

        `open_recorded` is for when the attempt ends before it is read: where all of it is then moved to, so that
        files that are not there any more are not missing.
        """
        try:
            slot = SlotReader(self.slots, slot_name(owner.keeper))
        except OSError:
            return None
        try:
            record = slot.find(job_id, owner.token)
        finally:
            slot.close()
        if record is None:
            return None
        return _SlotSource(self, owner, record, find_recorded, open_recorded)

    def open_recorded(self, job_id: int, attempt: int, recorded: Recorded) -> "_RowSource":
        """Open an attempt that has ended."""
        return _RowSource(self.state_dir, job_id, attempt, recorded, self._surveys)

    def fingerprint(self, owner: SlotOwner) -> bytes:
        """Return bytes that differ whenever the owner's output has grown; empty ones if its slot cannot be read."""
        try:
            with closing(SlotReader(self.slots, slot_name(owner.keeper))) as slot:
                return slot.fingerprint()
        except OSError:  # no descriptors left, for example
            return b""

    def watch_once(self, owner: SlotOwner, on_written: Callable[[], None]) -> bool:
        """Call `on_written` once at the owner's next write; return false if that is not possible."""
        return self._slot_events.watch_once(slot_name(owner.keeper), on_written)


class _Surveys:
    """Thorough surveys of ended attempts, each valid for as long as its files are as they were."""

    def __init__(self) -> None:
        self._found: OrderedDict[Hashable, tuple[Hashable, Survey]] = OrderedDict()

    def get(self, key: Hashable, signature: Hashable, make: Callable[[], Survey]) -> Survey:
        """Return the survey, made by `make` unless it is known. May be called from several threads."""
        known = self._found.get(key)
        if known is None or known[0] != signature:
            known = signature, make()
            self._found[key] = known
            while len(self._found) > _MAX_SURVEYS:
                self._found.popitem(last=False)
        return known[1]


class _RowSource:
    """An attempt that has ended: the head from its row, the rest from spill files."""

    def __init__(
        self, state_dir: str, job_id: int, attempt: int, recorded: Recorded, surveys: "_Surveys | None" = None
    ) -> None:
        self._surveys = surveys or _Surveys()
        self._head = recorded.head
        self._files = (state_dir, job_id, attempt, recorded.token)
        self.volume = recorded.volume
        self.has_files = (
            len(recorded.head.index) >= INDEX_CAPACITY * ENTRY_SIZE or recorded.volume.stored > DATA_CAPACITY
        )

    async def apply(self, read: Read[T]) -> T:
        return await _run(lambda: self.read_now(read), spilled=self.has_files)

    async def survey(self, *, thorough: bool) -> Survey:
        # What is in the row has the database's own checks.
        check = self._thorough_survey if thorough and self.has_files else partial(self.read_now, _quick_survey)
        return await _run(check, spilled=self.has_files)

    def read_both(self, limit: int) -> tuple[bytes, bytes] | None:
        if self.has_files or max(self.volume.stdout_bytes, self.volume.stderr_bytes) > limit:
            return None
        return self.read_now(segments.read_both)

    def _thorough_survey(self) -> Survey:
        with Spill(*self._files) as spill:
            signature = spill.signature(), self.volume
        make = partial(self.read_now, partial(segments.survey, thorough=True))
        return self._surveys.get(self._files, signature, make)

    def read_now(self, read: Read[T]) -> T:
        """Run a read on this thread, which may wait for a disk."""
        count = len(self._head.index) // ENTRY_SIZE
        if not self.has_files:
            return read(IndexedOutput(_RowHead(self._head), _NO_FILES, count, self.volume))
        with Spill(*self._files) as spill:
            if count == INDEX_CAPACITY:
                count += spill.entries()
            return read(IndexedOutput(_RowHead(self._head), spill, count, self.volume))


class _SlotSource:
    """A running attempt: the head from its slot, the rest from spill files."""

    def __init__(
        self,
        storage: LocalStorage,
        owner: SlotOwner,
        record: Record,
        find_recorded: Callable[[], Awaitable[Recorded]],
        open_recorded: "OpenRecorded | None",
    ) -> None:
        self._state_dir, self._slots = storage.state_dir, storage.slots
        self._owner, self._record, self._find_recorded = owner, record, find_recorded
        self._files_move = open_recorded is not None
        self._open_recorded: OpenRecorded = open_recorded or storage.open_recorded
        names = ("stdout", "stderr", "stdout_dropped", "stderr_dropped")
        self.volume = Volume(*(_count(record.progress, name) for name in names))
        self._entries = _count(record.progress, "entries")
        self.has_files = self._entries > INDEX_CAPACITY or self.volume.stored > DATA_CAPACITY

    async def apply(self, read: Read[T]) -> T:
        try:
            return await _run(lambda: self.read_now(read), spilled=self.has_files)
        except SlotReusedError:
            # The row has the same bytes; how many of them there were at the time of the snapshot, only we know.
            recorded = Recorded(self.volume, (await self._find_recorded()).head, self._owner.token)
            return await self._open_recorded(self._record.job, self._owner.attempt, recorded).apply(read)

    def read_both(self, limit: int) -> tuple[bytes, bytes] | None:
        return None  # it may be reused meanwhile

    async def survey(self, *, thorough: bool) -> Survey:
        return await self.apply(partial(segments.survey, thorough=thorough))

    def read_now(self, read: Read[T]) -> T:
        """Run a read on this thread, which may wait for a disk.

        Raises:
            SlotReusedError: the attempt has ended meanwhile.
        """
        try:
            slot = SlotReader(self._slots, slot_name(self._owner.keeper))
        except OSError:
            raise SlotReusedError from None
        try:
            with Spill(self._state_dir, self._record.job, self._owner.attempt, self._owner.token) as spill:
                result = read(IndexedOutput(_SlotHead(slot, self._record), spill, self._entries, self.volume))
            if not slot.still_holds(self._record) or (self._files_move and spill.is_missing):
                raise SlotReusedError
            return result
        finally:
            slot.close()


class SlotReusedError(Exception):
    """The slot holds another job by now, so what was read from it may be that job's; or its files were moved."""


class ReadableSource(Protocol):
    """As much of a `ByteSource` as reads an attempt that has ended meanwhile."""

    async def apply(self, read: Read[T], /) -> T: ...


class OpenRecorded(Protocol):
    """Opens an attempt that has ended."""

    def __call__(self, job_id: int, attempt: int, recorded: Recorded, /) -> ReadableSource: ...


@dataclass(frozen=True, slots=True)
class _SlotHead:
    slot: SlotReader
    record: Record

    def index(self, count: int) -> bytes:
        return self.slot.index(self.record, count)

    def data(self, position: int, limit: int) -> bytes:
        return self.slot.data(self.record, position, limit)

    def size(self) -> int:
        return DATA_CAPACITY


@dataclass(frozen=True, slots=True)
class _RowHead:
    head: Head

    def index(self, count: int) -> bytes:
        return self.head.index[: count * ENTRY_SIZE]

    def data(self, position: int, limit: int) -> bytes:
        return self.head.data[position : position + limit]

    def size(self) -> int:
        return min(DATA_CAPACITY, len(self.head.data))


class _NoFiles:
    """The tail of an output that ends before it."""

    def index(self, number: int, count: int) -> bytes:
        return b""

    def data(self, position: int, limit: int) -> bytes:
        return b""

    def extents(self) -> list[tuple[int, int]]:
        return []

    def narrow(self, stream: int | None, value: int, first: int, count: int) -> range:
        return range(first, count)


_NO_FILES: Final = _NoFiles()


def _quick_survey(output: IndexedOutput) -> Survey:
    return segments.survey(output, thorough=False)


async def _run(read: Callable[[], T], *, spilled: bool) -> T:
    """Run a read: slots and rows are in memory, but spill files may wait for a disk, so a thread reads those."""
    return await asyncio.to_thread(read) if spilled else read()


def _count(progress: dict[str, Any], name: str) -> int:
    """Return a figure of the slot's progress; anything but a count is damage and counts as 0."""
    value = progress.get(name, 0)
    return value if isinstance(value, int) and value >= 0 else 0
