"""Orders to other hosts: writes them, waits for their answers; and what is known of commands that others run.

Built by `composition`, which hands it the notes of other nodes and runs it as a task. Must not know what an order
says, or what carries it out.
"""

import asyncio
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from shellrunner.clock import Millis
from shellrunner.errors import HostSilent, KeeperSilent, NoSuchJob, NotRunning, StoreUnavailable
from shellrunner.model import CommandState, State
from shellrunner.store.hosts import TIMEOUT, Answer, CommandHost, HostOrder, OrderKind
from shellrunner.store.postgres.orders import command_rows, order_rows
from shellrunner.store.postgres.orders.command_facts import KnownCommands, OwnCommands
from shellrunner.store.postgres.orders.input_keys import InputKeys
from shellrunner.store.postgres.orders.order_connection import OrderConnection
from shellrunner.store.postgres.orders.order_rows import WrittenOrder
from shellrunner.store.postgres.orders.order_service import IN_DOUBT, UNREADABLE, OrderService
from shellrunner.store.postgres.orders.writer_leases import PostgresWriterLeases
from shellrunner.tasks import TaskGroup

_POLL_INTERVAL: Final = 0.5  # seconds between looks for answers without a note
_START_INTERVAL: Final = 0.02  # seconds between looks whether a job that has just been accepted has started
_ALL_TIMEOUT: Final = 2.0  # seconds for all hosts to say something; a list goes without those that do not
_REMOVE_INTERVAL: Final = 30.0  # seconds between removals of what nobody needs any more

_WITHDRAWN: Final[Answer] = {"withdrawn": True}

_Waiting = asyncio.Future[Answer]


class OrderExchange:
    """Implements `HostOrders`."""

    def __init__(
        self,
        host: str,
        connection: OrderConnection,
        service: OrderService,
        own_commands: OwnCommands,
        known_commands: KnownCommands,
        *,
        writers: PostgresWriterLeases,
        peers: Callable[[], Iterable[str]],
    ) -> None:
        """`peers` returns the names of the other nodes that live."""
        self.host, self.own_commands = host, own_commands
        self._connection, self._service, self._peers = connection, service, peers
        self._known_commands, self.writers = known_commands, writers
        self._input_keys = InputKeys(host)
        self._waiting: dict[str, _Waiting] = {}
        self._has_waiting, self._wake = asyncio.Event(), asyncio.Event()

    # Of other nodes ---------------------------------------------------------------------------------------------

    def note_received(self, note: Mapping[str, Any]) -> None:
        """Follow what another node has reported."""
        if "order" in note:
            self._service.look()
        if "answer" in note:
            self._wake.set()
        if "writer" in note:
            self.writers.lost(note["writer"])
        if note.get("from") != self.host:
            self._known_commands.jobs_changed(note.get("jobs") or (), note.get("commands") or ())

    def notes_missed(self) -> None:
        """Look for everything: it is not known what others have reported."""
        self._service.look()
        self._wake.set()
        self._known_commands.forget()

    # Asking -----------------------------------------------------------------------------------------------------

    async def ask(
        self, job_id: int, kind: OrderKind, content: Mapping[str, Any] | None = None, data: bytes = b""
    ) -> Answer | None:
        """Have the host that runs the job carry out an order; see `HostOrders`."""
        try:
            async with asyncio.timeout(TIMEOUT):
                order = HostOrder(kind, content or {}, data, job_id)
                while (answer := await self._ask(job_id, order)) == UNREADABLE:
                    self._input_keys.forget(job_id)
        except TimeoutError:
            raise KeeperSilent(job_id) from None
        if answer == IN_DOUBT:
            raise KeeperSilent(job_id)
        if answer == _WITHDRAWN:
            raise NotRunning(job_id)
        if answer is not None and "command" in answer:
            self._known_commands.take([command_rows.from_json(job_id, answer["command"])])
        return answer

    async def _ask(self, job_id: int, order: HostOrder) -> Answer | None:
        with self._expecting() as (key, answered):
            sent = await self._send(key, order)
            if sent is None:
                raise NoSuchJob(job_id)
            if sent.state != State.RUNNING:
                raise NotRunning(job_id)
            if sent.host == self.host:
                return None
            if not sent.is_written:
                raise HostSilent(job_id, str(sent.host))
            return await answered

    async def _send(self, key: str, order: HostOrder) -> WrittenOrder | None:
        """Write an order to the host that runs the job; wait for one to claim it if the job was accepted just now.

        On one host a job has started when its client learns its id, if there is a free place. In a cluster another
        host claims it some milliseconds later, and an order may come before that. One with bytes may also come before
        this node can read the key to seal them with.
        """
        while True:
            sent = await self._connection.run(lambda db: order_rows.add(db, self.host, key, order, self._input_keys))
            if sent is None or sent.is_written:
                return sent
            lacks_key = sent.state == State.RUNNING and sent.host != self.host and sent.is_reachable
            if not lacks_key and (sent.state != State.QUEUED or not sent.is_new):
                return sent
            await asyncio.sleep(_START_INTERVAL)

    async def ask_host(self, host: str, kind: OrderKind, content: Mapping[str, Any] | None = None) -> Answer | None:
        """Have one host carry out an order that is about no job; None: it does not answer."""
        return (await self._ask_hosts([host], kind, content or {}, TIMEOUT)).get(host)

    async def ask_all(self, kind: OrderKind) -> Mapping[str, Answer]:
        """Have every other host that can be reached carry out an order; return the answers that came, by host."""
        return await self._ask_hosts(self._peers(), kind, {}, _ALL_TIMEOUT)

    async def _ask_hosts(
        self, hosts: Iterable[str], kind: OrderKind, content: Mapping[str, Any], seconds: float
    ) -> dict[str, Answer]:
        expected = {secrets.token_hex(8): host for host in hosts if host != self.host}
        if not expected:
            return {}
        futures = {key: asyncio.get_running_loop().create_future() for key in expected}
        self._waiting |= futures
        self._has_waiting.set()
        try:
            sent = await self._connection.run(
                lambda db: order_rows.add_to_hosts(db, self.host, expected, HostOrder(kind, content))
            )
            if sent:
                await asyncio.wait([futures[key] for key in sent], timeout=seconds)
            return {
                host: futures[key].result()
                for key, host in expected.items()
                if futures[key].done() and futures[key].result() != IN_DOUBT
            }
        finally:
            for key in futures:
                del self._waiting[key]

    @contextmanager
    def _expecting(self) -> Generator[tuple[str, _Waiting], None, None]:
        key, future = secrets.token_hex(8), asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        self._has_waiting.set()
        try:
            yield key, future
        finally:
            del self._waiting[key]

    def command_state(self, job_id: int, claimed: Millis, /) -> CommandState:
        """Return what is known here of a command that another host runs, beside the history: of the claim of then."""
        return self._known_commands.find(job_id, claimed)

    # Tasks ------------------------------------------------------------------------------------------------------

    async def start(self, tasks: TaskGroup) -> None:
        """Read what hosts have written of their commands, so that no status lacks it; then run.

        Raises:
            StoreUnavailable: it could not be read.
        """
        await self._known_commands.begin()
        tasks.start("store-orders", self.run())

    async def serve(self, host: CommandHost, /) -> None:
        """Let `host` carry out the orders to this host, until it is cancelled."""
        await self._service.run(host)

    async def run(self) -> None:
        """Collect answers, and read what hosts have written of their commands, until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._collect(), name="answers")
                tasks.create_task(self._known_commands.run(), name="commands of other hosts")
                tasks.create_task(self._remove_old(), name="old orders")
        finally:
            self.writers.close()

    async def _collect(self) -> None:
        while True:
            if not self._waiting:
                self._has_waiting.clear()
                await self._has_waiting.wait()
            is_note = True
            try:
                async with asyncio.timeout(_POLL_INTERVAL):
                    await self._wake.wait()
            except TimeoutError:
                is_note = False
            self._wake.clear()
            with suppress(StoreUnavailable):
                for key, answer in (await self._connection.run(lambda db: order_rows.collect(db, self.host))).items():
                    self._answered(key, answer)
                if not is_note:
                    for key in await self._connection.run(lambda db: order_rows.withdraw(db, self.host)):
                        self._answered(key, _WITHDRAWN)

    def _answered(self, key: str, answer: Answer) -> None:
        future = self._waiting.get(key)
        if future is not None and not future.done():
            future.set_result(answer)

    async def _remove_old(self) -> None:
        while True:
            await asyncio.sleep(_REMOVE_INTERVAL)
            with suppress(StoreUnavailable):
                await self._connection.run(order_rows.remove_old)
                await self._known_commands.remove_stale()
                await self.writers.remove_stale()
