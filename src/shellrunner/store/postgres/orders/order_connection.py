"""Runs the statements of orders on a connection: each is a transaction of its own. Must not know what they do."""

from dataclasses import dataclass
from typing import TypeVar

import psycopg

from shellrunner.store.db import UnitOfWork
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import PostgresThread

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OrderConnection:
    """A connection, which others use too."""

    thread: PostgresThread

    async def run(self, unit: UnitOfWork[T]) -> T:
        """Run a unit of one statement.

        Raises:
            StoreUnavailable: the database failed. OutcomeUnknown: it may have done it.
        """

        def execute(thread: PostgresThread) -> T:
            db = thread.db
            try:
                return unit(db)
            except psycopg.Error:
                thread.drop()
                raise

        try:
            return await self.thread.run(execute)
        except psycopg.Error as error:
            raise (
                failures.outcome_unknown(error)
                if failures.is_lost(error)
                else failures.translate_failure(error, "written")
            ) from None
