"""The history in one SQLite file: the contract of `store`, kept by a writer, two readers, slots and `runs/`.

Opened by the composition root. Knows which room does what; must not know web, supervisor or config.
"""

import asyncio
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim, Done, End, Job, JobSpec, Millis, Queued, Running, State, Volume
from shellrunner.store import Bell, Head, Output, changes, output, rows
from shellrunner.store.background import background
from shellrunner.store.ballast import Ballast
from shellrunner.store.bells import Bells
from shellrunner.store.claims import Adding, Claims
from shellrunner.store.connection import Connection, connect, open_reading
from shellrunner.store.lane import Asked, Lane, Unit
from shellrunner.store.opening import Opening
from shellrunner.store.output import Outputs, Owner
from shellrunner.store.retention import Removed, Retainer, Retention
from shellrunner.store.runs import Runs
from shellrunner.store.writer import Writer

__all__ = ["Retention", "SqliteStore", "open_store"]

T = TypeVar("T")
_WISHES = "wishes"


@asynccontextmanager
async def open_store(state_dir: Path, retention: Retention) -> AsyncIterator["SqliteStore"]:
    """Open the history in this directory, or begin one; it is closed, with everything written, at the end.

    Raises:
        StoreUnavailable: it cannot be opened; the words say why and what to do.
    """
    opening = Opening(str(state_dir))
    async with (
        connect(opening.open) as writing,
        connect(partial(open_reading, opening.path)) as reading,
        connect(partial(open_reading, opening.path)) as reading_too,
        SqliteStore(opening, writing, (reading, reading_too), retention, str(state_dir)).working() as store,
    ):
        yield store


class SqliteStore:
    """See `shellrunner.store` for what each method promises."""

    def __init__(
        self, opening: Opening, writing: Connection, reading: Sequence[Connection], limits: Retention, state: str
    ) -> None:
        self._history = opening.history
        self._owners = opening.owners
        self._ballast = Ballast(f"{state}/ballast")
        self._claims = Claims(self._more_offers, self._claimed, self._abandoned)
        self._writer = Writer(writing, self._claims.standing, self._ballast.give_up)
        self._readers = [Lane(connection) for connection in reading]
        self._outputs = Outputs(state, lambda job_id: self._read(lambda db: output.look(db, job_id)))
        self._bells = Bells(self._glance)
        self._runs = Runs(state)
        self._retainer = Retainer(limits, opening.kept, self._retire)

    @asynccontextmanager
    async def working(self) -> AsyncIterator["SqliteStore"]:
        """Have everything that works in the background at work; at the end, finish what was asked for."""
        async with background() as tasks:
            writer = tasks.start("store-writer", self._writer.work())
            others = [tasks.start("store-reader", reader.work()) for reader in self._readers]
            others.append(tasks.start("store-runs", self._runs.work()))
            tasks.start("store-bells", self._bells.work())
            tasks.start("store-retention", self._retainer.work())
            try:
                yield self
            finally:
                self._claims.close()
                self._writer.close()
                await asyncio.wait([writer])
                for reader in self._readers:
                    reader.close()
                self._runs.close()
                await asyncio.wait(others)
                self._outputs.close()

    # What the web side says -----------------------------------------------------------------------------

    async def add(self, spec: JobSpec) -> Job:
        shown, accepted = _accept(spec)

        def added(adding: Adding) -> None:
            if adding.offer:
                offer, job_id = adding.offer, adding.value
                claim = Claim(job_id, offer.token, offer.keeper, spec, accepted.created)
                self._claims.tell(offer, claim)

        adding = Adding(accepted, added)
        job_id: int = await self._writer.ask(adding)
        return Job(job_id, shown, accepted.created, Running(accepted.created) if adding.offer else Queued())

    async def job(self, job_id: int) -> Job:
        return await self._read(lambda db: rows.job(db, job_id))

    async def jobs(self, *, states: frozenset[State], limit: int, before: int | None = None) -> Sequence[Job]:
        return await self._read(lambda db: rows.jobs(db, states, limit, rows.LAST if before is None else before))

    async def results(self, *, limit: int, before: int | None = None) -> Sequence[Job]:
        return await self._read(lambda db: rows.results(db, limit, rows.LAST if before is None else before))

    async def output(self, job_id: int) -> Output:
        return await self._outputs.find(job_id, self._owners.get(job_id))

    async def wish_cancel(self, job_id: int) -> Job:
        def wished(job: Job) -> None:
            if isinstance(job.phase, Done):
                self._ended(job_id, 0)
            else:
                self._bells.ring(_WISHES)
                self._bells.ring(job_id)

        return await self._write(lambda db: changes.wish_cancel(db, job_id, _now()), wished, frees=True)

    async def delete_job(self, job_id: int) -> None:
        await self._write(lambda db: changes.delete_job(db, job_id), partial(self._gone, job_id, 1), frees=True)

    async def delete_result(self, job_id: int) -> None:
        await self._write(lambda db: changes.delete_result(db, job_id), partial(self._gone, job_id, 0), frees=True)

    def watch(self, job_id: int) -> AbstractContextManager[Bell]:
        return self._bells.watch(job_id)

    # What the supervisor says ----------------------------------------------------------------------------

    @property
    def history(self) -> str:
        return self._history

    @property
    def commits(self) -> int:
        """How many transactions were committed since the opening."""
        return self._writer.commits

    async def claim(self, keeper: int, token: str) -> Claim:
        offer = self._claims.offer(keeper, token)
        try:
            return await offer.claim
        except asyncio.CancelledError:
            if not offer.claim.cancelled():
                self._abandoned(offer.claim.result())
            raise
        finally:
            self._claims.withdraw(offer)

    async def finish(self, job_id: int, token: str, end: End, volume: Volume, head: Head) -> bool:
        def finished(held: bool) -> None:
            if held:
                self._ended(job_id, volume.stored)

        return await self._write(
            lambda db: changes.finish(db, job_id, token, end=end, volume=volume, head=head), finished, frees=True
        )

    async def requeue(self, job_id: int, token: str) -> bool:
        return await self._put_back(job_id, token) is not None

    async def running(self) -> Sequence[Claim]:
        return await self._read(rows.running)

    async def cancelling(self) -> Sequence[Claim]:
        return [claim for claim in await self._read(rows.running) if claim.cancelling]

    def watch_wishes(self) -> AbstractContextManager[Bell]:
        return self._bells.watch(_WISHES)

    async def check(self) -> None:
        mark = secrets.token_hex(8)
        if await self._write(lambda db: changes.touch(db, mark)) != mark:
            raise StoreUnavailable("the history does not keep what is written to it")

    # What follows from a commit: called on the loop even if nobody waits for the answer any more ---------------

    def _claimed(self, claim: Claim) -> None:
        self._owners[claim.job_id] = Owner(claim.keeper, claim.token)
        self._bells.ring(claim.job_id)

    def _abandoned(self, claim: Claim) -> None:
        """Whoever wanted it is gone and was told nothing, so it goes back; if that fails, it is judged later."""
        with suppress(StoreUnavailable):
            self._put_back(claim.job_id, claim.token).add_done_callback(asyncio.Future.exception)

    def _put_back(self, job_id: int, token: str) -> "asyncio.Future[State | None]":
        unit = partial(_requeue, job_id=job_id, token=token)
        return self._writer.ask(Asked(unit, partial(self._back, job_id), queues=True))

    def _ended(self, job_id: int, size: int) -> None:
        self._owners.pop(job_id, None)
        self._retainer.came(size)
        self._bells.ring(job_id)

    def _back(self, job_id: int, state: State | None) -> None:
        if state is State.DONE:
            self._ended(job_id, 0)
        elif state is not None:
            self._owners.pop(job_id, None)
            self._bells.ring(job_id)

    def _gone(self, job_id: int, jobs: int, size: int | None) -> None:
        self._retainer.went(jobs, size or 0)
        if size is not None:  # also 0: of a lost job there may be more than is known
            self._runs.discard(job_id)
        self._bells.ring(job_id)

    # How it is done ------------------------------------------------------------------------------------------

    async def _read(self, unit: Unit[T]) -> T:
        return await min(self._readers, key=lambda reader: reader.load).run(unit)

    async def _write(self, unit: Unit[T], after: Callable[[T], None] | None = None, *, frees: bool = False) -> T:
        value: T = await self._writer.ask(Asked(unit, after, frees=frees))
        return value

    async def _retire(self, most: int) -> int:
        def retired(removed: Removed) -> None:
            for job_id, size in removed:
                self._gone(job_id, 1, size)

        def unit(db: sqlite3.Connection) -> Removed:
            self._ballast.restore()
            return self._retainer.step(db, most)

        removed = await self._write(unit, retired, frees=True)
        return len(removed)

    def _more_offers(self) -> None:
        self._writer.wake()

    def _glance(self, job_id: int) -> bytes | None:
        owner = self._owners.get(job_id)
        return self._outputs.glance(job_id, owner) if owner else None


def _accept(spec: JobSpec) -> tuple[JobSpec, changes.Accepted]:
    """The job as it may be seen, and as it goes into its row."""
    hidden = None
    if spec.env or spec.stdin is not None:
        hidden = json.dumps({"env": spec.env, "stdin": spec.stdin}, ensure_ascii=False)
        spec = spec.redacted()
    text = spec.model_dump_json(exclude_defaults=True)
    return spec, changes.Accepted(spec.priority, _now(), spec.shown, text, hidden)


def _requeue(db: sqlite3.Connection, job_id: int, token: str) -> State | None:
    return changes.requeue(db, job_id, token, _now())


def _now() -> Millis:
    return time.time_ns() // 1_000_000
