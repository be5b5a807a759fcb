"""Carries out the orders of other hosts to the commands of this one, with the controls of this host.

Implements `CommandHost` of the store. Must not know how orders come, or how a keeper is reached.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from shellrunner.errors import KeeperSilent, NoSuchKeeper, ShellrunnerError, StoreUnavailable
from shellrunner.host_control import refusals
from shellrunner.model import CommandState, LiveUsage, TerminalSize
from shellrunner.store.hosts import Answer, HostOrder, OrderKind

log = logging.getLogger("shellrunner.host_control")


class LocalControls(Protocol):
    """Controls the commands that this host runs; `supervisor.Controls` implements it."""

    @property
    def signals(self) -> Mapping[str, int]:
        """The signals that the kernel has, by name."""

    def runs(self, job_id: int, /) -> bool:
        """Return whether this host runs the job, or is about to."""

    def command_state(self, job_id: int, /) -> CommandState:
        """Return what is known of the job's command beside the history."""

    async def check_claim(self, job_id: int, token: str) -> None:
        """Wait until the job's keeper is known, and check that it runs under this claim token."""

    async def send_signal(self, job_id: int, signum: int, *, to_tree: bool = False) -> None:
        """Send a signal."""

    async def pause(self, job_id: int) -> None:
        """Suspend the command."""

    async def resume(self, job_id: int) -> None:
        """Resume the command."""

    async def resize(self, job_id: int, size: TerminalSize) -> None:
        """Set the size of the command's terminal."""

    async def send_input(self, job_id: int, offset: int | None, data: bytes, *, end: bool) -> None:
        """Append to the command's input."""


class LocalUsage(Protocol):
    """Measures the jobs that this host runs; `live_usage` implements it."""

    async def measure(self) -> Mapping[int, LiveUsage]:
        """Return what each running job uses, by job."""

    async def measure_job(self, job_id: int, /) -> LiveUsage | None:
        """Return what one running job uses."""


class LocalKeepers(Protocol):
    """The keepers of this host that the history does not know; the supervisor implements it."""

    async def find(self) -> Sequence[Any]:
        """Return those that still run."""

    async def end(self, keeper: Any, /) -> None:
        """Have one of them end its command."""


class OrderExecutor:
    """Carries out orders."""

    def __init__(self, controls: LocalControls, usage: LocalUsage, keepers: LocalKeepers, processors: int) -> None:
        """`processors`: how many of this host jobs may use, 0 if it runs none."""
        self._controls, self._usage, self._keepers, self._processors = controls, usage, keepers, processors
        self._by_kind: dict[OrderKind, Callable[[HostOrder], Awaitable[Answer | None]]] = {
            OrderKind.SIGNAL: self._signal,
            OrderKind.PAUSE: self._pause,
            OrderKind.RESUME: self._resume,
            OrderKind.RESIZE: self._resize,
            OrderKind.INPUT: self._input,
            OrderKind.USAGE: self._measure,
            OrderKind.KEEPERS: self._find_keepers,
            OrderKind.END_KEEPER: self._end_keeper,
        }

    async def carry_out(self, order: HostOrder, /) -> Answer:
        """Carry out an order; what it refuses, it says in the answer."""
        try:
            if order.job_id is not None and order.token is not None:
                await self._controls.check_claim(order.job_id, order.token)
            return await self._by_kind[order.kind](order) or {}
        except ShellrunnerError as error:
            return refusals.to_answer(error)
        except Exception:  # a bug must not end the host's other jobs' orders
            log.exception("an order of another host failed", extra={"order": order.kind, "job": order.job_id})
            failed = KeeperSilent(order.job_id) if order.job_id is not None else StoreUnavailable("the order failed")
            return refusals.to_answer(failed)

    def command_state(self, job_id: int, /) -> CommandState | None:
        """Return what is known of the command of a job that this host runs; None if it does not run it (yet)."""
        return self._controls.command_state(job_id) if self._controls.runs(job_id) else None

    async def _signal(self, order: HostOrder) -> None:
        content = order.content
        await self._controls.send_signal(_job_of(order), content["signum"], to_tree=content["to_tree"])

    async def _pause(self, order: HostOrder) -> None:
        await self._controls.pause(_job_of(order))

    async def _resume(self, order: HostOrder) -> None:
        await self._controls.resume(_job_of(order))

    async def _resize(self, order: HostOrder) -> None:
        await self._controls.resize(_job_of(order), TerminalSize(order.content["rows"], order.content["columns"]))

    async def _input(self, order: HostOrder) -> None:
        content = order.content
        await self._controls.send_input(_job_of(order), content["offset"], order.data, end=content["end"])

    async def _measure(self, order: HostOrder) -> dict[str, Any]:
        if order.job_id is not None:
            usage = await self._usage.measure_job(order.job_id)
            if usage is None:
                raise KeeperSilent(order.job_id)
            return {"usage": asdict(usage)}
        usages = await self._usage.measure()
        by_job = [[job_id, asdict(each)] for job_id, each in usages.items()]
        return {"processors": self._processors, "usages": by_job}

    async def _find_keepers(self, _: HostOrder) -> dict[str, Any]:
        found = await self._keepers.find()
        return {"keepers": [[each.number, each.pid, each.job_id, each.history, each.started] for each in found]}

    async def _end_keeper(self, order: HostOrder) -> None:
        number = order.content["number"]
        for each in await self._keepers.find():
            if each.number == number:
                await self._keepers.end(each)
                return
        raise NoSuchKeeper(number)


def _job_of(order: HostOrder) -> int:
    assert order.job_id is not None  # noqa: S101  these kinds are about a job
    return order.job_id
