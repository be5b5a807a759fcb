"""Find and read the output of any job, running or done, one attempt or all of them.

Owned by the store. The row says where the output is (`location`), a storage has the bytes (`local` on this host;
another host's chunks can be a second one). Must not know the state directory, notifications or writes.

    job's row ── locate ──> SlotOwner   running: bytes are in the keeper's slot, then in spill files
                            Recorded    ended: bytes are in the row, then in spill files
                            None        not started: no bytes

An attempt may end after its row and before its slot is read, and the slot then belongs to another job.
So a slot is checked after it was read; if it was reused, the attempt has ended and its row has the same bytes.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from shellrunner.model import Stream, Volume
from shellrunner.store.db import Db, UnitOfWork
from shellrunner.store.output import EndedOutput, Extent, Gap, Head, Output, index, segments
from shellrunner.store.output.index import STREAMS, IndexedOutput
from shellrunner.store.output.joined import JoinedAttempts
from shellrunner.store.output.location import OutputLocation, Recorded, SlotOwner, locate
from shellrunner.store.output.segments import Segment

T = TypeVar("T")

_NOTHING: Final = Recorded(Volume(), Head())


class RunRead(Protocol):
    """Runs a unit that reads rows of one job."""

    async def __call__(self, job_id: int, unit: UnitOfWork[T], /) -> T: ...


class Locate(Protocol):
    """Finds out where an output is: `location.locate`, or what a back end has instead of it."""

    def __call__(self, db: Db, job_id: int, attempt: int | None = None) -> OutputLocation: ...


class ByteSource(Protocol):
    """The bytes and the index of one attempt, as they were when the source was opened."""

    @property
    def volume(self) -> Volume:
        """Bytes stored and dropped at that time."""

    async def apply(self, read: Callable[[IndexedOutput], T], /) -> T:
        """Run `read`, which must not block otherwise, over the bytes."""

    async def survey(self, *, thorough: bool) -> Sequence[Segment] | None:
        """Return the parts that are there; None: everything, just as the index says. See `Output.gaps`."""

    def read_both(self, limit: int) -> tuple[bytes, bytes] | None:
        """Return both streams; None: not at once. See `Output.read_both`."""

    @property
    def has_files(self) -> bool:
        """Whether a part of it is in spill files."""


class OutputStorage(Protocol):
    """Has the bytes of attempts, and opens them by their location."""

    def open_slot(
        self, job_id: int, owner: SlotOwner, find_recorded: Callable[[], Awaitable[Recorded]]
    ) -> ByteSource | None:
        """Open a running attempt; None if its slot has nothing of it (not started, or ended and overwritten).

        `find_recorded` reads the attempt's row, in case the slot is reused before the bytes are read.
        """

    def open_recorded(self, job_id: int, attempt: int, recorded: Recorded) -> ByteSource:
        """Open an attempt that has ended."""

    def fingerprint(self, owner: SlotOwner) -> bytes:
        """Return bytes that differ whenever the owner's output has grown; empty ones if it cannot be read now."""

    def watch_once(self, owner: SlotOwner, on_written: Callable[[], None]) -> bool:
        """Call `on_written` once at the owner's next write; return false if that is not possible."""


class OutputSnapshot:
    """One attempt's `Output`, over the source that has its bytes."""

    def __init__(self, source: ByteSource, *, lags: bool = False) -> None:
        self._source, self.lags = source, lags
        self._gaps: list[Gap] = []
        self._segments: Sequence[Segment] | None = None  # to be read instead of everything
        self._checked: set[bool] = set()

    @property
    def volume(self) -> Volume:
        return self._source.volume

    @property
    def attempt_ends(self) -> Sequence[int]:
        return ()

    @property
    def has_files(self) -> bool:
        return self._source.has_files

    async def gaps(self, *, thorough: bool = False) -> Sequence[Gap]:
        if not {True, thorough} & self._checked:
            found = await self._source.survey(thorough=thorough)
            self._gaps = segments.gaps(found, self.volume)
            self._segments = found
            self._checked.add(thorough)
        return self._gaps

    async def read(self, position: int, limit: int) -> Sequence[Extent]:
        known = self._segments
        if known is not None:
            return await self._source.apply(lambda output: segments.read(output, known, position, limit))
        return await self._source.apply(lambda output: index.read(output, position, limit))

    def read_both(self, limit: int) -> tuple[bytes, bytes] | None:
        return self._source.read_both(limit)

    async def read_bytes(self, position: int, limit: int) -> bytes:
        limit = min(limit, self.volume.stored - position)
        return await self._source.apply(lambda output: output.data(position, limit)) if limit > 0 else b""

    async def read_stream(self, stream: Stream, offset: int, limit: int) -> bytes:
        number, known = STREAMS.index(stream), self._segments
        if known is not None:
            return await self._source.apply(lambda output: segments.read_stream(output, known, number, offset, limit))
        return await self._source.apply(lambda output: index.read_stream(output, number, offset, limit))

    async def offset_of(self, stream: Stream, position: int) -> int | None:
        number, known = STREAMS.index(stream), self._segments
        if known is not None:
            return await self._source.apply(lambda output: segments.offset_of(output, known, number, position))
        return await self._source.apply(lambda output: index.offset_of(output, number, position))


class ClaimedOutput:
    """The output of the jobs that are claimed, by job: what `notifications` must know of it."""

    def __init__(self, storage: OutputStorage, owners: Mapping[int, SlotOwner]) -> None:
        """`owners` are those who have claimed a job at any time."""
        self._storage, self._owners = storage, owners

    def fingerprint(self, job_id: int) -> bytes | None:
        """Return bytes that differ whenever the job's output has grown; None if it is not running.

        They are empty if the output cannot be read now.
        """
        owner = self._owners.get(job_id)
        return self._storage.fingerprint(owner) if owner else None

    def watch_once(self, job_id: int, on_written: Callable[[], None]) -> bool:
        """Call `on_written` once at the job's next write; return false if it is not running, or not possible."""
        owner = self._owners.get(job_id)
        return owner is not None and self._storage.watch_once(owner, on_written)


class OutputReader:
    """Finds the output of any job."""

    def __init__(self, storage: OutputStorage, run_read: RunRead, locate: Locate = locate) -> None:
        self._storage = storage
        self._run_read = run_read
        self._find_place = locate

    async def find(self, job_id: int, owner: SlotOwner | None, attempt: int | None = None) -> Output:
        """Return the output as it is now, of all attempts (None) or of one.

        `owner`: the keeper that is known to run the job, if any; it saves reading the row.

        Raises:
            NoSuchJob, NoSuchAttempt, ResultGone: see `location.locate`.
        """
        tried = None
        if owner and owner.attempt == 1 and attempt in (None, 1):
            if (output := self._in_slot(job_id, owner)) is not None:
                return output
            tried = owner
        while True:
            # Nothing is in the slot: the attempt has ended by now, or has not started yet.
            location = await self._locate(job_id, attempt)
            if not isinstance(location.place, SlotOwner) or location.place == tried:
                return self._joined(job_id, location, self._in_row(job_id, location))
            if (output := self._in_slot(job_id, location.place)) is not None:
                return self._joined(job_id, location, output)
            tried = location.place

    def open_ended(self, locations: Mapping[int, OutputLocation]) -> Mapping[int, EndedOutput]:
        """Return the output at each of these places (`location.locate_ended`), by job."""
        return {job_id: self._in_row(job_id, location) for job_id, location in locations.items()}

    async def _locate(self, job_id: int, attempt: int | None) -> OutputLocation:
        return await self._run_read(job_id, partial(self._find_place, job_id=job_id, attempt=attempt))

    def _joined(self, job_id: int, location: OutputLocation, latest: Output) -> Output:
        if not location.earlier:
            return latest
        return JoinedAttempts(location.earlier, latest, partial(self._ended_attempt, job_id))

    async def _ended_attempt(self, job_id: int, attempt: int) -> Output:
        return self._in_row(job_id, await self._locate(job_id, attempt))

    async def _find_recorded(self, job_id: int, attempt: int) -> Recorded:
        return _recorded(await self._locate(job_id, attempt))

    def _in_row(self, job_id: int, location: OutputLocation) -> OutputSnapshot:
        source = self._storage.open_recorded(job_id, location.attempt, _recorded(location))
        return OutputSnapshot(source, lags=location.lags)

    def _in_slot(self, job_id: int, owner: SlotOwner) -> Output | None:
        source = self._storage.open_slot(job_id, owner, partial(self._find_recorded, job_id, owner.attempt))
        return OutputSnapshot(source) if source is not None else None


def _recorded(location: OutputLocation) -> Recorded:
    return location.place if isinstance(location.place, Recorded) else location.so_far or _NOTHING
