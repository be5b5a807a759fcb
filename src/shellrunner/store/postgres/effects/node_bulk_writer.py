"""The engine as `bulk_changes` takes it.

Owned by the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from shellrunner.store.components.bulk_changes import ChangedBatch
from shellrunner.store.db import Db, UnitOfWork
from shellrunner.store.postgres.effects.unwanted_commands import CommandListener
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.transition import Transitions

T = TypeVar("T")
Changed = TypeVar("Changed", bound=ChangedBatch)


@dataclass(frozen=True, slots=True)
class NodeBulkWriter:
    """Runs the units of bulk changes. What still runs of a lost job ends with its deletion (`unsettled`)."""

    engine: PostgresEngine
    listener: CommandListener

    async def read(self, unit: UnitOfWork[T]) -> T:
        """Run a unit that reads."""
        return await self.engine.read(unit)

    async def change(self, unit: UnitOfWork[Changed]) -> Changed:
        """Run a unit in a write batch, and apply the consequences."""

        def change(db: Db) -> tuple[tuple[Changed, Sequence[str]], Transitions]:
            outcome = unit(db)
            deleted = [each.job_id for each in outcome.transitions if each.after is None]
            hosts = unsettled.request_cancel(db, deleted, kill_only=True) if deleted else []
            return (outcome, hosts), outcome.transitions

        def committed(changed: tuple[Changed, Sequence[str]]) -> None:
            self.listener.committed(changed[0].transitions)
            self.listener.commands_unwanted(changed[1])

        outcome, _ = await self.engine.change(change, committed)
        return outcome
