"""Where an output of a shared history is, and who has its bytes: this host's slot, the job's row, or chunks.

Used by `output.reader`. Must not know notifications or writes.

    runs on this node       the keeper's slot, spill files
    runs on another node    chunks, as far as they were sent
    ended                   the row, if the head is all of it; else chunks
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from shellrunner.store.db import Db
from shellrunner.store.output import Head, location
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.output.location import OutputLocation, Recorded, SlotOwner
from shellrunner.store.output.reader import ByteSource
from shellrunner.store.postgres.output_chunks import chunk_rows
from shellrunner.store.postgres.output_chunks.chunk_source import ChunkSource, RunUnit

_HOST: Final = "SELECT host FROM jobs WHERE id = ?"


@dataclass(frozen=True, slots=True)
class NodeLocate:
    """`location.locate` as it is at this node."""

    node: str

    def __call__(self, db: Db, job_id: int, attempt: int | None = None) -> OutputLocation:
        """Locate the output; see there for what it raises."""
        found = location.locate(db, job_id, attempt)
        if not isinstance(found.place, SlotOwner):
            return found
        so_far = Recorded(chunk_rows.sent(db, job_id, found.attempt).volume, Head(), found.place.token)
        if db.execute(_HOST, (job_id,)).fetchone() == (self.node,):
            return replace(found, so_far=so_far)
        return replace(found, place=so_far, lags=True)


@dataclass(frozen=True, slots=True)
class ChunkStorage:
    """The `OutputStorage` of a node."""

    local: LocalStorage
    run_read: RunUnit

    def open_slot(
        self, job_id: int, owner: SlotOwner, find_recorded: Callable[[], Awaitable[Recorded]]
    ) -> ByteSource | None:
        """Open an attempt that this node runs; None if its slot has nothing of it."""
        return self.local.open_slot(job_id, owner, find_recorded, self.open_recorded)

    def open_recorded(self, job_id: int, attempt: int, recorded: Recorded) -> ByteSource:
        """Open an attempt that has ended, or that another node runs."""
        if recorded.is_whole:
            return self.local.open_recorded(job_id, attempt, recorded)
        return ChunkSource(self.run_read, job_id, attempt, recorded.volume)

    def fingerprint(self, owner: SlotOwner) -> bytes:
        """Return bytes that differ whenever the owner's output has grown."""
        return self.local.fingerprint(owner)

    def watch_once(self, owner: SlotOwner, on_written: Callable[[], None]) -> bool:
        """Call `on_written` once at the owner's next write; return false if that is not possible."""
        return self.local.watch_once(owner, on_written)
