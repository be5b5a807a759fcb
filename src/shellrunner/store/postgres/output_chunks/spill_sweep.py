"""Removal of spill files that were left although all of their output is in the database.

Owned by the store, which runs it as a task. Files are removed after the commit of an end; a server that was killed in
between, or an answer that was lost, leaves them. Files of a `lost` job stay until its witness has reported, and files
that no row speaks of stay for good: they may be another history's. Must not know how files are removed.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.output import spill
from shellrunner.store.output.spill import SpillRemover
from shellrunner.store.postgres.output_chunks.chunk_source import RunUnit

_FIRST_DELAY: Final = 10.0  # seconds: the supervisor has recorded by then what ended while no server was there
_INTERVAL: Final = 600.0
_MAX_JOBS: Final = 500  # in one statement
# The token is in the row if the attempt may have files. An end is committed after all of its output.
_SETTLED: Final = """SELECT id, attempt, token FROM jobs WHERE id = ANY(?) AND state = 'done' AND token IS NOT NULL
        AND (ending != 'lost' OR found IS NOT NULL)
    UNION ALL
    SELECT job, number, token FROM attempts WHERE job = ANY(?) AND token IS NOT NULL AND ending != 'lost'"""


class SpillSweep:
    """Looks for such files from time to time."""

    def __init__(self, state_dir: str, run_read: RunUnit) -> None:
        self._state_dir, self._run_read = state_dir, run_read

    async def run(self, remover: SpillRemover) -> None:
        """Remove them, until it is cancelled."""
        await asyncio.sleep(_FIRST_DELAY)
        while True:
            with suppress(StoreUnavailable, OSError):
                await self.sweep(remover)
            await asyncio.sleep(_INTERVAL)

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
