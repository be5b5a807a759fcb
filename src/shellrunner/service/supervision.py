"""What `serve` and `worker` have in common: the event loop, the supervisor with its keepers, the last log line.

Used by the composition root of each. Must not know HTTP, or which back end has the history.
"""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shellrunner import __version__
from shellrunner.config import Settings
from shellrunner.host_control.any_host import AnyHostControls, AnyHostKeepers, AnyHostUsage
from shellrunner.host_control.order_executor import OrderExecutor
from shellrunner.live_usage import UsageMeter
from shellrunner.service.process import pid_namespace
from shellrunner.store import Store, Work
from shellrunner.store.hosts import WriterLeases
from shellrunner.supervisor import Controls, KeeperPool, Supervisor
from shellrunner.supervisor.confinement import Confinement
from shellrunner.supervisor.end_recorder import EndObserver
from shellrunner.supervisor.fork_server_connection import ForkServerConnection, ForkServerLauncher
from shellrunner.supervisor.unknown_keepers import UnknownKeepers
from shellrunner.tasks import background_task

log = logging.getLogger("shellrunner.service")


def run_to_end(program: Coroutine[Any, Any, int]) -> int:
    """Run a program in an event loop of its own; return its exit status."""
    runner = asyncio.Runner()
    try:
        return runner.run(program)
    finally:
        # It starts a thread to wait for the worker threads, for which there may be no process left. They end all the
        # same, with this process.
        with contextlib.suppress(RuntimeError):
            runner.close()


def log_stop(running: int, state_dir: Path) -> None:
    """Log that the process has stopped, and whether so many running jobs continue."""
    fields = {"jobs": running, "slots": str(state_dir / "slots")}
    continuing = "stopped; running jobs continue under their keepers"
    log.info(continuing if running and not pid_namespace.ends_with_service() else "stopped", extra=fields)


def freeze_garbage_collector() -> None:
    """Exclude what was made at the start, and lives as long as the service, from every collection from now on.

    The command line has disabled the collector, because what is imported stays; the little garbage ends here.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)  # a job makes some hundred objects and no cycles
    gc.enable()


def without_jobs(settings: Settings) -> Settings:
    """Return the settings of a node that runs no jobs, but for those that it has started before."""
    supervisor = settings.supervisor.model_copy(update={"max_running": 0})
    return settings.model_copy(update={"supervisor": supervisor})


@contextlib.asynccontextmanager
async def supervised(
    store: Work,
    launcher: ForkServerLauncher,
    fork_server: ForkServerConnection,
    settings: Settings,
    *,
    confinement: Confinement,
    observe: EndObserver,
) -> AsyncIterator[tuple[Supervisor, asyncio.Task[None]]]:
    """Run the supervisor; also yield its task, which is done only if it crashed."""
    identity = store.identity
    header = {
        "history": identity.history_id,
        "generation": identity.generation,
        "home": identity.home,
        "program": __version__,
    }
    keepers = KeeperPool(launcher, header, fork_server)
    max_running = settings.supervisor.max_running
    supervisor = Supervisor(store, keepers, settings.jobs, confinement, max_running=max_running, observe=observe)
    with contextlib.closing(keepers):
        async with background_task("supervisor", supervisor.run()) as task:
            yield supervisor, task


@dataclass(frozen=True, slots=True)
class CommandControls:
    """What `web` gets. serving: the task that carries out orders of other hosts, if there are any."""

    controls: Controls | AnyHostControls
    usage_reader: UsageMeter | AnyHostUsage
    keepers: UnknownKeepers | AnyHostKeepers
    writer_leases: WriterLeases | None = None
    serving: tuple[asyncio.Task[None], ...] = ()


@contextlib.asynccontextmanager
async def command_controls(store: Store, supervisor: Supervisor, max_running: int) -> AsyncIterator[CommandControls]:
    """Carry out what other hosts order; yield what controls and measures commands, wherever they run.

    The one place that knows whether there are other hosts: where there are none, `web` gets the local parts.
    """
    local, meter = Controls(store, supervisor.running_job), UsageMeter(supervisor.running_jobs)
    orders, keepers = store.orders, supervisor.unknown_keepers
    if orders is None:
        yield CommandControls(local, meter, keepers)
        return
    processors = meter.processors if max_running else 0
    executor = OrderExecutor(local, meter, keepers, processors)
    async with background_task("orders", orders.serve(executor)) as serving:
        yield CommandControls(
            controls=AnyHostControls(local, orders),
            usage_reader=AnyHostUsage(meter, local, orders, processors),
            keepers=AnyHostKeepers(keepers, orders),
            writer_leases=orders.writers,
            serving=(serving,),
        )
