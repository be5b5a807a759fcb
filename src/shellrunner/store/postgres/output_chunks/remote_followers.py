"""Jobs that clients of this node follow while other nodes run them: those are asked to send their output at once.

Owned by the store, which runs it as a task. Notes may be lost, so interest is renewed, and the followers look by
themselves from time to time. Must not know what a follower does.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.postgres.output_chunks.chunk_source import RunUnit
from shellrunner.store.postgres.output_chunks.sender import SendNote

_INTERVAL: Final = 2.0  # seconds between two looks
_TOUCH_INTERVAL: Final = 1.0  # seconds for which a job that was read once is not asked for again
_MAX_JOBS: Final = 500  # in one note, which PostgreSQL limits to 8000 bytes
_HOSTS: Final = """SELECT host, id FROM jobs
    WHERE id = ANY(?) AND state = 'running' AND host IS NOT NULL AND host != ? ORDER BY host"""


class RemoteFollowers:
    """Which jobs are followed here. `owners`: the jobs that this node runs, whose output needs nobody to be asked."""

    def __init__(
        self,
        node: str,
        owners: Mapping[int, object],
        run_read: RunUnit,
        send_note: SendNote,
        notify: Callable[[int], None],
    ) -> None:
        self._node, self._owners, self._run_read = node, owners, run_read
        self._send_note, self._notify = send_note, notify
        self._followed: Counter[int] = Counter()
        self._asked: set[int] = set()  # to be asked for at once
        self._touched: dict[int, float] = {}
        self._wake = asyncio.Event()

    @contextmanager
    def following(self, job_id: int) -> Iterator[None]:
        """Ask for the job's output at once for as long as the block lasts."""
        self._followed[job_id] += 1
        self._ask(job_id)
        try:
            yield
        finally:
            self._followed[job_id] -= 1
            if not self._followed[job_id]:
                del self._followed[job_id]

    def touch(self, job_id: int) -> None:
        """Ask for the output of a job that was read here: it may be read again soon."""
        now = time.monotonic()
        if now - self._touched.get(job_id, 0.0) > _TOUCH_INTERVAL:
            self._touched = {each: at for each, at in self._touched.items() if now - at <= _TOUCH_INTERVAL}
            self._touched[job_id] = now
            self._ask(job_id)

    def changed(self, job_id: int) -> None:
        """Follow that another node has changed the job: it may run there from now on."""
        if job_id in self._followed:
            self._ask(job_id)

    async def run(self) -> None:
        """Ask for what is followed, until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL if self._followed else None):
                    await self._wake.wait()
            is_due = not self._wake.is_set()
            self._wake.clear()
            asked, self._asked = self._asked, set()
            if is_due:
                asked = {job_id for job_id in self._followed if job_id not in self._owners}
            with suppress(StoreUnavailable):
                await self._ask_hosts([*asked])
            for job_id in asked if is_due else ():
                self._notify(job_id)

    def _ask(self, job_id: int) -> None:
        if job_id not in self._owners:
            self._asked.add(job_id)
            self._wake.set()

    async def _ask_hosts(self, job_ids: list[int]) -> None:
        if not job_ids:
            return

        def find(db: Db) -> list[tuple[str, int]]:
            return db.execute(_HOSTS, (job_ids, self._node)).fetchall()

        jobs: dict[str, list[int]] = {}
        for host, job_id in await self._run_read(find):
            jobs.setdefault(host, []).append(job_id)
        for host, theirs in jobs.items():
            for start in range(0, len(theirs), _MAX_JOBS):
                self._send_note(host, {"from": self._node, "follow": theirs[start : start + _MAX_JOBS]})
