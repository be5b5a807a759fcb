"""Ends of attempts: recorded once all of the output is in the database, so that a result that says N bytes has them.

Used by those who record ends. Nearly all attempts have no more output than the head that is recorded with the end:
these wait for nothing. Must not know what else is recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from shellrunner.errors import StoreUnavailable
from shellrunner.model import Volume
from shellrunner.store.db import Db
from shellrunner.store.output.location import Recorded, SlotOwner
from shellrunner.store.output.spill import SpillRemover
from shellrunner.store.postgres.output_chunks import chunk_rows
from shellrunner.store.postgres.output_chunks.sender import OutputSender
from shellrunner.store.units.locks import find_locked


class RecordEnd(Protocol):
    """Records the end now.

    may_be_less: what the host says of the volume may be less than what was sent: the unit has to take
    `volume_as_sent`. on_recorded: to be called after the commit, if the history has the end now.
    """

    def __call__(self, *, may_be_less: bool, on_recorded: Callable[[], None]) -> None: ...


@dataclass(frozen=True, slots=True)
class AttemptOutput:
    """The output of an attempt that has ended; `recorded` has its token. owner: its keeper, if it is known."""

    job_id: int
    token: str
    owner: SlotOwner | None
    recorded: Recorded
    is_lost: bool


@dataclass(frozen=True, slots=True)
class OutputEnds:
    """Sends what was not sent yet before an end is recorded, and removes the files after that."""

    sender: OutputSender
    spill: SpillRemover

    def send_first(
        self, output: AttemptOutput, record: RecordEnd, on_failed: Callable[[StoreUnavailable], None]
    ) -> None:
        """Have all of the output be in the database, then call `record`; or `on_failed`, if the database is away."""
        has_sent_more = self.sender.has_sent_more(output.token, output.recorded.volume)
        if output.recorded.is_whole and not output.is_lost:
            record(may_be_less=has_sent_more, on_recorded=_do_nothing)
            return

        def sent(owner: SlotOwner | None) -> None:
            def remove_files() -> None:
                # The end is committed, and all of the output before it. What is lost may be of use to somebody yet.
                if owner is not None and not output.is_lost:
                    self.spill.discard(output.job_id, (output.token,), first=owner.attempt)

            record(may_be_less=has_sent_more or output.is_lost, on_recorded=remove_files)

        self.sender.send_rest(output.job_id, output.owner, output.recorded, on_sent=sent, on_failed=on_failed)


def volume_as_sent(db: Db, job_id: int, token: str, volume: Volume) -> Volume:
    """Return the volume of an attempt that ends: what its host says, or what was sent, if that is more (a unit).

    What was sent was read from intact output, and may have been read by others, whatever became of it on its host.
    """
    job = find_locked(db, job_id)
    if job is None or job.token != token:
        return volume
    sent = chunk_rows.sent(db, job_id, job.attempt).volume
    if sent.stored <= volume.stored:
        return volume
    return replace(volume, stdout_bytes=sent.stdout_bytes, stderr_bytes=sent.stderr_bytes)


def _do_nothing() -> None:
    """There are no files."""
