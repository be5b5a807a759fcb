"""The engine as `bulk_changes` takes it.

Owned by the store.
"""

from dataclasses import dataclass
from typing import TypeVar

from shellrunner.store.components.bulk_changes import ChangedBatch
from shellrunner.store.db import Db, UnitOfWork
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.transition import CommitListener, Transitions

T = TypeVar("T")
Changed = TypeVar("Changed", bound=ChangedBatch)


@dataclass(frozen=True, slots=True)
class NodeBulkWriter:
    """Runs the units of bulk changes."""

    engine: PostgresEngine
    listener: CommitListener

    async def read(self, unit: UnitOfWork[T]) -> T:
        """Run a unit that reads."""
        return await self.engine.read(unit)

    async def change(self, unit: UnitOfWork[Changed]) -> Changed:
        """Run a unit in a write batch, and apply the consequences."""

        def change(db: Db) -> tuple[Changed, Transitions]:
            outcome = unit(db)
            return outcome, outcome.transitions

        return await self.engine.change(change, lambda outcome: self.listener.committed(outcome.transitions))
