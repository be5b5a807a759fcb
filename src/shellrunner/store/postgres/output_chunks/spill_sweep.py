"""Removal of spill files that were left although all of their output is in the database.

Owned by the store, which runs it as a task. Files are removed after the commit of an end; a server that was killed in
between, or an answer that was lost, leaves them. Files of a `lost` job stay until its witness has reported, or it is
deleted, at whichever node; files that no row speaks of stay for good: they may be another history's. Must not know
how files are removed.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.output import spill
from shellrunner.store.output.spill import SpillRemover
from shellrunner.store.postgres.output_chunks.chunk_source import RunUnit

_FIRST_DELAY: Final = 10.0  # seconds: the supervisor has recorded by then what ended while no server was there
_INTERVAL: Final = 30.0  # seconds between two looks for what was deleted
_LOOKS_PER_SWEEP: Final = 20  # after which all files are looked at
_MAX_JOBS: Final = 500  # in one statement
# The token is in the row if the attempt may have files. An end is committed after all of its output.
_SETTLED: Final = """SELECT id, attempt, token FROM jobs WHERE id = ANY(?) AND state = 'done' AND token IS NOT NULL
        AND (ending != 'lost' OR found IS NOT NULL)
    UNION ALL
    SELECT job, number, token FROM attempts WHERE job = ANY(?) AND token IS NOT NULL AND ending != 'lost'"""
# Not while a command may write them: its host reports its end first.
_DISCARDED: Final = """SELECT job, attempt, token FROM discarded_files WHERE host = ?
    AND NOT EXISTS (SELECT FROM unsettled WHERE token = discarded_files.token) LIMIT ?"""
_REMOVED: Final = "DELETE FROM discarded_files WHERE host = ? AND token = ANY(?)"


class RunWrite(Protocol):
    """Runs a unit in the next write batch."""

    async def __call__(self, unit: Callable[[Db], None], /) -> None: ...


class SpillSweep:
    """Looks for such files from time to time."""

    def __init__(self, node: str, state_dir: str, run_read: RunUnit, run_write: RunWrite) -> None:
        self._node, self._state_dir, self._run_read, self._run_write = node, state_dir, run_read, run_write

    async def run(self, remover: SpillRemover) -> None:
        """Remove them, until it is cancelled."""
        await asyncio.sleep(_FIRST_DELAY)
        for number in itertools.count():
            with suppress(StoreUnavailable, OSError):
                await self.remove_discarded(remover)
                if number % _LOOKS_PER_SWEEP == 0:
                    await self.sweep(remover)
            await asyncio.sleep(_INTERVAL)

    async def remove_discarded(self, remover: SpillRemover) -> None:
        """Remove the files of deleted jobs that were lost.

        Raises:
            StoreUnavailable.
        """
        while found := list(await self._run_read(self._find_discarded)):
            for job_id, attempt, token in found:
                remover.discard(job_id, (token,), first=attempt)
            await remover.done()
            tokens = [token for *_, token in found]
            await self._run_write(lambda db: self._forget(db, tokens))  # noqa: B023  it is awaited here

    def _find_discarded(self, db: Db) -> list[tuple[int, int, str | None]]:
        return [(*row,) for row in db.execute(_DISCARDED, (self._node, _MAX_JOBS)).fetchall()]

    def _forget(self, db: Db, tokens: list[str | None]) -> None:
        db.execute(_REMOVED, (self._node, tokens))

    async def sweep(self, remover: SpillRemover) -> None:
        """Remove those that there are.

        Raises:
            StoreUnavailable, OSError.
        """
        files = await asyncio.to_thread(spill.find_all, self._state_dir)
        named = {(file.job, file.attempt, file.token) for file in files if file.token is not None}
        job_ids = sorted({job_id for job_id, *_ in named})
        for start in range(0, len(job_ids), _MAX_JOBS):
            settled = await self._run_read(_find(job_ids[start : start + _MAX_JOBS]))
            for job_id, attempt, token in named.intersection(settled):
                remover.discard(job_id, (token,), first=attempt)


def _find(job_ids: list[int]) -> Callable[[Db], Iterable[tuple[int, int, str | None]]]:
    def find(db: Db) -> list[tuple[int, int, str | None]]:
        return [(*row,) for row in db.execute(_SETTLED, (job_ids, job_ids)).fetchall()]

    return find
