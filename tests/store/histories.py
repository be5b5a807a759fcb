"""What the store's tests share: histories in a directory, ends, and keepers' slots written as keepers write them."""

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

from shellrunner.keeper.recorder import Recorder
from shellrunner.keeper.slot import SlotReader, SlotWriter, slot_name
from shellrunner.model import Claim, End, Ending, Job, JobSpec, Usage, Volume
from shellrunner.store import Filters, Head, Position
from shellrunner.store.sqlite.store import Retention, SqliteStore, open_store

SPEC = JobSpec(command="true")
NOTHING = (Volume(), Head())


def opened(path: Path, **limits: float) -> AbstractAsyncContextManager[SqliteStore]:
    return open_store(path, Retention(**limits))  # type: ignore[arg-type]


def ended(code: int = 0, completed: int = 2_000, started: int = 1_000) -> End:
    return End(Ending.EXITED, completed, exit_code=code, started=started, duration=0.5, usage=Usage(0.1, 0.2, 4096))


async def listed(store: SqliteStore, limit: int = 1000, **filters: Any) -> list[Job]:
    """The newest jobs, as far as one page goes."""
    return list((await store.page(Filters(**filters), (), limit=limit)).jobs)


async def everything(store: SqliteStore) -> list[Job]:
    """Every job, page by page."""
    found: list[Job] = []
    after: Position | None = None
    while True:
        page = await store.page(Filters(), (), limit=1000, after=after)
        found += page.jobs
        if page.next is None:
            return found
        after = page.next


async def running(store: SqliteStore, token: str = "t", keeper: int = 1) -> Claim:
    await store.add(SPEC)
    return await store.claim(keeper, token)


async def done(store: SqliteStore, token: str = "t", **end: int) -> Job:
    claim = await running(store, token)
    assert await store.finish(claim.job_id, token, ended(**end), *NOTHING)
    return await store.job(claim.job_id)


class Keeper:
    """A keeper's slot and files, written by the keeper's own recorder in this process."""

    def __init__(self, path: Path, number: int = 1) -> None:
        self.number = number
        self._state = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._slots = os.open(path / "slots", os.O_RDONLY | os.O_DIRECTORY)
        self._slot = SlotWriter(self._slots, slot_name(number))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self._slot.fd, self._slots, self._state):
            os.close(fd)

    def begin(self, job: int, token: str, limit: int = 1 << 40, attempt: int = 1) -> Recorder:
        self._slot.begin({"job": job, "token": token, "wall": 1, "attempt": attempt})
        return Recorder(self._slot, self._state, job, token, limit, attempt=attempt)

    def record(self, job: int, token: str) -> tuple[Volume, Head]:
        """What a supervisor takes from the slot for `finish`."""
        reader = SlotReader(self._slots, slot_name(self.number))
        record = reader.find(job, token)
        assert record is not None
        said = record.progress
        volume = Volume(*(said.get(name, 0) for name in ("stdout", "stderr", "stdout_dropped", "stderr_dropped")))
        head = Head(reader.data(record, 0, volume.stored), reader.index(record, said.get("entries", 0)))
        reader.close()
        return volume, head
