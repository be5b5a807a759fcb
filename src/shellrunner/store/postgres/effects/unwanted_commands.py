"""Cancelling and deleting one job, with the command that may run on though the job is lost (`unsettled`).

Owned by the store. Must not know hosts, or how they end commands.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shellrunner.clock import Millis
from shellrunner.errors import AlreadyDone
from shellrunner.model import Job
from shellrunner.store import rows
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import lifecycle


class CommandListener(CommitListener, Protocol):
    """What follows from cancelled and deleted jobs."""

    def commands_unwanted(self, hosts: Iterable[str], /) -> None:
        """Follow that commands of jobs that are lost, or deleted, are to be ended on these hosts."""


@dataclass(frozen=True, slots=True)
class UnwantedCommands:
    """Ends and deletes jobs one by one. now: by the clock of the database."""

    engine: PostgresEngine
    listener: CommandListener
    now: Callable[[], Millis]

    async def request_cancel(self, job_id: int, *, kill_only: bool) -> Job:
        """See `History.request_cancel`."""

        def cancel(db: Db) -> tuple[tuple[Job, Transitions, Sequence[str]], Transitions]:
            try:
                job, transitions = lifecycle.request_cancel(db, job_id, self.now(), kill_only=kill_only)
                hosts = unsettled.request_cancel(db, [job_id], kill_only=kill_only)  # of an earlier attempt
            except AlreadyDone:  # it may be lost, and run on
                if not (hosts := unsettled.request_cancel(db, [job_id], kill_only=kill_only)):
                    raise
                return (rows.job(db, job_id), [], hosts), []
            return (job, transitions, hosts), transitions

        job, *_ = await self.engine.change(cancel, lambda outcome: self._committed(*outcome[1:]))
        return job

    async def delete_job(self, job_id: int) -> None:
        """See `History.delete_job`."""

        def delete(db: Db) -> tuple[tuple[Transitions, Sequence[str]], Transitions]:
            transitions = [lifecycle.delete_job(db, job_id)]
            return (transitions, unsettled.request_cancel(db, [job_id], kill_only=True)), transitions

        await self.engine.change(delete, lambda outcome: self._committed(*outcome))

    def _committed(self, transitions: Transitions, hosts: Sequence[str]) -> None:
        self.listener.committed(transitions)
        self.listener.commands_unwanted(hosts)
