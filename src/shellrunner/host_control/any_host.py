"""Controls and usage of commands on any host: of this host by its own parts, of the others by orders.

For `web`, which does not know where a job runs. Must not know how orders travel.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shellrunner.clock import Millis
from shellrunner.errors import KeeperSilent, NotRunning
from shellrunner.host_control.order_executor import LocalControls, LocalKeepers, LocalUsage
from shellrunner.host_control.refusals import raise_refusal
from shellrunner.model import CommandState, LiveUsage, TerminalSize
from shellrunner.store.hosts import HostOrders, OrderKind


class AnyHostControls:
    """Controls commands: what each method raises is what the controls of the job's host raise."""

    def __init__(self, local: LocalControls, orders: HostOrders) -> None:
        self._local, self._orders = local, orders
        self.signals = local.signals

    def command_state(self, job_id: int, claimed: Millis, /) -> CommandState:
        """Return what is known of the job's command beside the history; nothing if it does not run.

        `claimed`: when it was, as the history has it. What another host has reported may be of an earlier attempt.
        """
        if self._local.runs(job_id):
            return self._local.command_state(job_id)
        return self._orders.command_state(job_id, claimed)

    async def send_signal(self, job_id: int, signum: int, *, to_tree: bool = False) -> None:
        """Send a signal to the command's process group, or to every process group among its descendants."""
        if not await self._is_done_elsewhere(job_id, OrderKind.SIGNAL, {"signum": signum, "to_tree": to_tree}):
            await self._local.send_signal(job_id, signum, to_tree=to_tree)

    async def pause(self, job_id: int) -> None:
        """Suspend the command and all of its tree; return once its keeper has done so."""
        if not await self._is_done_elsewhere(job_id, OrderKind.PAUSE):
            await self._local.pause(job_id)

    async def resume(self, job_id: int) -> None:
        """Resume the command and its tree; return once its keeper has done so."""
        if not await self._is_done_elsewhere(job_id, OrderKind.RESUME):
            await self._local.resume(job_id)

    async def resize(self, job_id: int, size: TerminalSize) -> None:
        """Set the size of the command's terminal; return once its keeper has done so."""
        if not await self._is_done_elsewhere(job_id, OrderKind.RESIZE, {"rows": size.rows, "columns": size.columns}):
            await self._local.resize(job_id, size)

    async def send_input(self, job_id: int, offset: int | None, data: bytes, *, end: bool) -> None:
        """Append all of `data` to the command's input, and end it if `end`; return once its keeper has both."""
        if not await self._is_done_elsewhere(job_id, OrderKind.INPUT, {"offset": offset, "end": end}, data):
            await self._local.send_input(job_id, offset, data, end=end)

    async def _is_done_elsewhere(
        self, job_id: int, kind: OrderKind, content: Mapping[str, Any] | None = None, data: bytes = b""
    ) -> bool:
        """Have another host do it; return False if this host runs the job."""
        if self._local.runs(job_id):
            return False
        answer = await self._orders.ask(job_id, kind, content, data)
        if answer is None:
            return False
        raise_refusal(answer)
        return True


class AnyHostUsage:
    """Measures running jobs. processors: of the hosts that were measured last."""

    def __init__(self, local: LocalUsage, controls: LocalControls, orders: HostOrders, own: int) -> None:
        """`own`: how many processors of this host jobs may use, 0 if it runs none."""
        self._local, self._controls, self._orders, self._own = local, controls, orders, own
        self.processors = own

    async def measure(self) -> Mapping[int, LiveUsage]:
        """Return what each running job uses, by job; without those of hosts that do not answer in time."""
        answers, own = await asyncio.gather(self._orders.ask_all(OrderKind.USAGE), self._local.measure())
        usages, processors = dict(own), self._own
        for answer in answers.values():
            if "usages" in answer:
                processors += answer["processors"]
                usages |= {job_id: LiveUsage(**usage) for job_id, usage in answer["usages"]}
        self.processors = processors
        return usages

    async def measure_job(self, job_id: int) -> LiveUsage | None:
        """Return what one running job uses; None if its keeper is not known at the moment.

        Raises:
            NoSuchJob, NotRunning, KeeperSilent: see `AnyHostControls`.
        """
        if self._controls.runs(job_id) or (answer := await self._orders.ask(job_id, OrderKind.USAGE)) is None:
            return await self._local.measure_job(job_id)
        raise_refusal(answer)
        if "usage" not in answer:
            raise NotRunning(job_id)
        return LiveUsage(**answer["usage"])


class HostKeeper(NamedTuple):
    """A keeper of some host, and the command that it runs, which the history does not know."""

    host: str
    number: int
    pid: int
    job_id: int
    history: str
    started: Millis


class AnyHostKeepers:
    """The keepers that the history does not know, on all hosts."""

    def __init__(self, local: LocalKeepers, orders: HostOrders) -> None:
        self._local, self._orders = local, orders

    async def find(self) -> Sequence[HostKeeper]:
        """Return those that still run, of the hosts that answer in time."""
        own, answers = await asyncio.gather(self._local.find(), self._orders.ask_all(OrderKind.KEEPERS))
        name = self._orders.host
        found = [HostKeeper(name, each.number, each.pid, each.job_id, each.history, each.started) for each in own]
        for host, answer in sorted(answers.items()):
            found += [HostKeeper(host, *keeper) for keeper in answer.get("keepers", ())]
        return found

    async def end(self, keeper: HostKeeper, /) -> None:
        """Have one of them end its command.

        Raises:
            NoSuchKeeper: it does not run any more.
            KeeperSilent: its host does not answer.
        """
        if keeper.host == self._orders.host:
            await self._local.end(keeper)
            return
        answer = await self._orders.ask_host(keeper.host, OrderKind.END_KEEPER, {"number": keeper.number})
        if answer is None:
            raise KeeperSilent(keeper.job_id)
        raise_refusal(answer)
