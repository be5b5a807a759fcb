"""The host's side of orders: takes them, has them carried out, answers them.

Owned by `order_exchange`. Orders of one job are carried out one after the other, in the order in which they came;
those of different jobs at the same time. Must not know what an order says.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import UnitOfWork
from shellrunner.store.hosts import STATE_CHANGES, TIMEOUT, Answer, CommandHost
from shellrunner.store.postgres.orders import command_rows, order_rows
from shellrunner.store.postgres.orders.command_facts import OwnCommands
from shellrunner.store.postgres.orders.order_connection import OrderConnection
from shellrunner.store.postgres.orders.order_rows import TakenOrder

T = TypeVar("T")

_LOOK_INTERVAL: Final = 2.0  # seconds between looks without a note
_RETRY_DELAY: Final = 0.5  # seconds, after a failure of the database
IN_DOUBT: Final[Answer] = {"interrupted": True}  # an order that may have been carried out
UNREADABLE: Final[Answer] = {"unreadable": True}  # an order that was not: the key of its bytes is another one


class OrderService:
    """Carries out the orders to this host."""

    def __init__(self, host: str, incarnation: str, connection: OrderConnection, commands: OwnCommands) -> None:
        self._host, self._incarnation = host, incarnation
        self._connection, self._commands = connection, commands
        self._wake = asyncio.Event()
        self._last: dict[int, asyncio.Task[None]] = {}  # of each job, its last order
        self._answers: list[tuple[int, str, Answer]] = []
        self._has_answers = asyncio.Event()

    def look(self) -> None:
        """Look for orders now."""
        self._wake.set()

    async def run(self, host: CommandHost) -> None:
        """Take orders and let `host` carry them out, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._answer(), name="answers to orders")
            tasks.create_task(self._commands.run(host), name="what is known of commands")
            await self._retry(lambda db: order_rows.answer_interrupted(db, self._host, self._incarnation, IN_DOUBT))
            while True:
                for taken in await self._retry(lambda db: order_rows.take(db, self._host, self._incarnation)):
                    self._begin(tasks, host, taken)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_INTERVAL):
                        await self._wake.wait()
                self._wake.clear()

    async def _retry(self, unit: UnitOfWork[T]) -> T:
        while True:
            try:
                return await self._connection.run(unit)
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_DELAY)

    def _begin(self, tasks: asyncio.TaskGroup, host: CommandHost, taken: TakenOrder) -> None:
        job_id = taken.order.job_id
        before = None if job_id is None else self._last.get(job_id)
        expires = asyncio.get_running_loop().time() + TIMEOUT - taken.age
        task = tasks.create_task(self._carry_out(host, taken, before, expires), name=f"order {taken.row}")
        if job_id is not None:
            self._last[job_id] = task
            task.add_done_callback(lambda done: self._done(job_id, done))

    def _done(self, job_id: int, task: asyncio.Task[None]) -> None:
        if self._last.get(job_id) is task:
            del self._last[job_id]

    async def _carry_out(
        self, host: CommandHost, taken: TakenOrder, before: asyncio.Task[None] | None, expires: float
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        order = taken.order
        if asyncio.get_running_loop().time() >= expires:  # nobody waits for it any more
            return
        answer = dict(await host.carry_out(order) if taken.is_readable else UNREADABLE)
        if order.kind in STATE_CHANGES and order.job_id is not None:
            with suppress(StoreUnavailable):
                await self._commands.write(order.job_id)
            if row := self._commands.current_row(order.job_id):
                answer["command"] = command_rows.to_json(row)
        self._answers.append((taken.row, taken.key, answer))
        self._has_answers.set()

    async def _answer(self) -> None:
        """Send the answers, those together that come while others are on their way."""
        while True:
            await self._has_answers.wait()
            self._has_answers.clear()
            answers, self._answers = self._answers, []
            try:
                await self._connection.run(partial(order_rows.answer, answers=answers))
            except StoreUnavailable:
                self._answers[:0] = answers
                await asyncio.sleep(_RETRY_DELAY)
                self._has_answers.set()
