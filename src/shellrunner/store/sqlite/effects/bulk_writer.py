"""The engine as `bulk_changes` takes it: what ends or deletes jobs may use the reserve of a full disk.

Owned by the store.
"""

from dataclasses import dataclass
from typing import TypeVar

from shellrunner.store.components.bulk_changes import ChangedBatch
from shellrunner.store.db import UnitOfWork
from shellrunner.store.sqlite.effects.commit_effects import CommitEffects
from shellrunner.store.sqlite.engine.engine import Engine

T = TypeVar("T")
Changed = TypeVar("Changed", bound=ChangedBatch)


@dataclass(frozen=True, slots=True)
class BulkWriter:
    """Runs the units of bulk changes."""

    engine: Engine
    effects: CommitEffects

    async def read(self, unit: UnitOfWork[T]) -> T:
        """Run a unit that reads."""
        return await self.engine.read(unit)

    async def change(self, unit: UnitOfWork[Changed]) -> Changed:
        """Run a unit in a write batch, and apply the consequences."""
        return await self.engine.write(
            unit, lambda outcome: self.effects.committed(outcome.transitions), frees_space=True
        )
