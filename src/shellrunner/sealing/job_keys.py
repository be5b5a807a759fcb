"""The keys of the jobs that are not done: made before a job with secrets is accepted, destroyed once it has ended.

Owned by the store, on the event loop's thread, but for `unseal`. What arrives while files are written is done with
the next ones, so that many jobs at once share the sync of their directory. Must not know SQL.
"""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from shellrunner.errors import StoreUnavailable
from shellrunner.sealing import sealed_text
from shellrunner.sealing.key_files import JobKey, KeyFiles, KeyUnusable, write_error

_WHAT: Final = "the key for the job's environment values and input could not be written"
_CLOSED: Final = "the history is closed"


class _Wanted(NamedTuple):
    """So many keys for one caller."""

    number: int
    future: asyncio.Future[Sequence[JobKey]]


class JobKeys:
    """`create`, then `committed` or `discard`, then `job_ended`."""

    def __init__(self, files: KeyFiles, names: dict[int, str], unused: set[str]) -> None:
        """`names`: of the keys of jobs that are not done; `unused`: of others, kept while the history is held."""
        self._files, self._names, self._unused = files, names, unused
        self._wanted: list[_Wanted] = []
        self._wake, self._is_closed = asyncio.Event(), False
        self._discarded: asyncio.Queue[str | None] = asyncio.Queue()

    async def create(self, count: int) -> Sequence[JobKey]:
        """Make so many keys, durably.

        Raises:
            NoSpace, StoreUnavailable: it could not be written.
        """
        if self._is_closed:
            raise StoreUnavailable(_CLOSED)
        future: asyncio.Future[Sequence[JobKey]] = asyncio.get_running_loop().create_future()
        self._wanted.append(_Wanted(count, future))
        self._wake.set()
        try:
            return await future
        except asyncio.CancelledError:
            if (
                future.done() and not future.cancelled() and future.exception() is None
            ):  # made, and delivered too late
                self._discard_all(future.result())
            raise

    def committed(self, job_id: int, name: str) -> None:
        """Note that a job was accepted whose secrets are sealed with this key."""
        self._names[job_id] = name

    def job_ended(self, job_id: int) -> None:
        """Destroy the job's key, if it has one: no further attempt follows, and that is committed."""
        name = self._names.pop(job_id, None)
        if name is not None:
            self.discard(name)

    def discard(self, name: str) -> None:
        """Destroy a key that no job needs."""
        self._discarded.put_nowait(name)

    def _discard_all(self, keys: Iterable[JobKey]) -> None:
        for key in keys:
            self.discard(key.name)

    def history_released(self) -> None:
        """Destroy the keys of jobs that the history, which was held, does not know."""
        for name in self._unused:
            self.discard(name)
        self._unused.clear()

    def unseal(self, job_id: int, stored: str) -> dict[str, Any]:
        """Return the values that a job's row has. Blocking; on the writer's thread.

        Raises:
            KeyUnusable: they can never be read again.
            OSError: they cannot be read now.
        """
        name = sealed_text.key_name(stored)
        if name is not None:
            return sealed_text.unseal(stored, self._files.read(name), job_id)
        if sealed_text.is_plain(stored):  # of an earlier version, and the disk was full when it was to be sealed
            return sealed_text.parse(stored)
        raise KeyUnusable("the history was copied without them")

    async def run_creation(self) -> None:
        """Make the keys that are wanted, until it is cancelled."""
        wanted: list[_Wanted] = []
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                wanted, self._wanted = self._wanted, []
                await self._create(wanted)
        finally:
            self._is_closed = True
            _fail(wanted + self._wanted, StoreUnavailable(_CLOSED))

    async def _create(self, wanted: list[_Wanted]) -> None:
        try:
            keys = await asyncio.to_thread(self._create_files, sum(each.number for each in wanted))
        except (OSError, ImportError) as error:
            _fail(wanted, write_error(_WHAT, error))
            return
        rest = iter(keys)
        for number, future in wanted:
            created = list(itertools.islice(rest, number))
            if future.done():
                self._discard_all(created)
            else:
                future.set_result(created)

    def _create_files(self, count: int) -> list[JobKey]:
        sealed_text.load_cipher()
        return self._files.create(count)

    async def run_removal(self) -> None:
        """Destroy what is discarded, until `close`."""
        is_open = True
        while is_open:
            names = [await self._discarded.get()]
            while not self._discarded.empty():
                names.append(self._discarded.get_nowait())
            is_open = None not in names
            await asyncio.to_thread(self._files.destroy, [name for name in names if name is not None])

    def close(self) -> None:
        """Let `run_removal` return once everything discarded was destroyed."""
        self._discarded.put_nowait(None)


def _fail(wanted: Iterable[_Wanted], error: StoreUnavailable) -> None:
    for _, future in wanted:
        if not future.done():
            future.set_exception(error)
