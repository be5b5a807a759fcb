"""The generation of an open history: raised from time to time while jobs change, and at the end.

Owned by the store, which runs it as a task. Whatever is restored from a backup that was made before the last raise is
recognized at the next opening, also if no slot speaks of what happened since. Must not know who asks.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.sqlite.engine.engine import Engine
from shellrunner.store.state_files.high_water import HighWaterFile
from shellrunner.store.values import HistoryIdentity

log = logging.getLogger("shellrunner.store")

_INTERVAL: Final = 30.0  # seconds
_RETRY_DELAY: Final = 1.0  # seconds, where a reader has held up the checkpoint
_RAISE: Final = """UPDATE meta SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE key = 'generation'
    RETURNING value"""


class GenerationCounter:
    """`identity` has the generation as of now.

    Once it is checkpointed, a database that was copied before is recognized by itself, without the WAL that lies
    beside it. A reader of an earlier state, such as the count of a long history after its opening, holds that up, so
    it is tried again until it is done.
    """

    def __init__(self, identity: HistoryIdentity, engine: Engine, high_water: HighWaterFile) -> None:
        self.identity = identity
        self._engine = engine
        self._high_water = high_water
        self._is_behind = asyncio.Event()  # the high-water mark names a generation that is not checkpointed
        if not high_water.is_checkpointed:
            self._is_behind.set()

    async def advance(self, *, last: bool = False) -> None:
        """Raise the generation: first in the history, then in the high-water mark; no job is added after the `last`.

        Raises:
            StoreUnavailable: the history, or the mark, could not be written.
        """
        generation = int(await self._engine.write(_raise))
        self.identity = self.identity._replace(generation=generation)
        is_checkpointed = await self._engine.checkpoint()
        if last:
            self._high_water.release_ids()
        await self._write_mark(generation, is_checkpointed=is_checkpointed)

    async def run(self, count_changes: Callable[[], int]) -> None:
        """Raise the generation periodically, if jobs have changed since."""
        seen = count_changes()
        while True:
            await asyncio.sleep(_INTERVAL)
            changes = count_changes()
            if changes != seen and await self.try_advance():
                seen = changes

    async def run_checkpoints(self) -> None:
        """Checkpoint the generation where that was held up when it was raised, and write that into the mark."""
        while True:
            await self._is_behind.wait()
            await asyncio.sleep(_RETRY_DELAY)
            generation = self.identity.generation
            if await self._engine.checkpoint():
                with suppress(StoreUnavailable):  # `_is_behind` is still set
                    await self._write_mark(generation, is_checkpointed=True)

    async def _write_mark(self, generation: int, *, is_checkpointed: bool) -> None:
        write = partial(self._high_water.raise_generation, generation, is_checkpointed=is_checkpointed)
        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise StoreUnavailable(f"the high-water mark could not be written: {error.strerror}") from error
        finally:
            (self._is_behind.clear if self._high_water.is_checkpointed else self._is_behind.set)()

    async def try_advance(self, *, last: bool = False) -> bool:
        """Raise the generation; return false, and log why, if that fails: the earlier one still holds."""
        try:
            await self.advance(last=last)
        except StoreUnavailable as error:
            log.warning("the generation could not be raised", extra={"reason": error.detail})
            return False
        return True


def _raise(db: Db) -> str:
    (value,) = db.execute(_RAISE).fetchone()
    return str(value)
