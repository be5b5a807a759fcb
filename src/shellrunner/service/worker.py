"""The composition root of `shellrunner worker`, which runs jobs of a history in PostgreSQL and has no HTTP API.

Used by the command line. What `serve` has for clients is not here, but for probes and metrics, if it is to listen for
these. Jobs are submitted, followed and changed at the nodes that have the API; this one is seen there as a host.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from shellrunner import __version__
from shellrunner.config import Settings
from shellrunner.errors import ConfigError
from shellrunner.metrics import MetricInputs, Metrics, disable_created_samples
from shellrunner.service import startup_warnings
from shellrunner.service.database_wait import (
    WAITS_FOR_HISTORY,
    opened_meanwhile,
    opened_once_possible,
    wait_for_database,
)
from shellrunner.service.health import AuditProbe, Health, Readiness
from shellrunner.service.network import binding
from shellrunner.service.network.tls import Certificate
from shellrunner.service.network.unavailable_responder import unavailable
from shellrunner.service.opened_history import check_back_end, describe, open_history
from shellrunner.service.probes import serving_probes
from shellrunner.service.process import descriptors, pid_namespace
from shellrunner.service.process.shutdown import (
    StopRequest,
    extend_stop_timeout,
    finish_jobs,
    first_of,
    handled_signals,
)
from shellrunner.service.process.worker_threads import start_worker_threads
from shellrunner.service.profile_check import open_confinement
from shellrunner.service.reload import Reloader
from shellrunner.service.state_dir import locked, prepare, private_files
from shellrunner.service.supervision import (
    command_controls,
    freeze_garbage_collector,
    log_stop,
    run_to_end,
    supervised,
)
from shellrunner.store import Store
from shellrunner.supervisor.fork_server_connection import ForkServerLauncher, attach
from shellrunner.supervisor.supervisor import Supervisor
from shellrunner.systemd.notify import Notifier
from shellrunner.tasks import background_task, has_failed

log = logging.getLogger("shellrunner.service")

_NO_URL: Final = "a worker requires store.url: it runs the jobs of a history in PostgreSQL"


def run(settings: Settings, reread: Callable[[], Settings]) -> int:
    """Run jobs until SIGTERM or SIGINT; return the exit status. On SIGHUP, `reread` reads the settings again.

    Raises:
        ShellrunnerError: the worker could not start; the text says why.
    """
    return run_to_end(work(settings, reread))


async def work(settings: Settings, reread: Callable[[], Settings]) -> int:
    """Run the worker, from the first lock to the last log line; return the exit status."""
    if not settings.store.url:
        raise ConfigError(_NO_URL)
    check_back_end(settings)
    certificate = Certificate.from_settings(settings.server) if settings.worker.listen else None
    reloader = Reloader(settings, reread)
    with handled_signals(reloader.request) as stop:
        try:
            return await _work(settings, stop, reloader, certificate)
        except asyncio.CancelledError:
            if not stop.take_interruption():
                raise
    log.info("stopped before the start was complete")
    return 0


async def _work(settings: Settings, stop: StopRequest, reloader: Reloader, certificate: Certificate | None) -> int:
    state_dir = prepare(settings.store.state_dir)
    launcher = ForkServerLauncher.from_process(state_dir)
    # Before anything is opened: what the fork server does not inherit, no keeper and no command ever holds.
    fork_server = launcher.launch()
    descriptors.raise_limit()
    settings = descriptors.within_limit(settings)
    start_worker_threads()
    disable_created_samples()
    metrics = Metrics(settings.queues)
    confinement = await open_confinement(settings, state_dir, ())
    on_stop = pid_namespace.stop_policy(settings.supervisor.on_stop)
    with (
        contextlib.closing(Notifier.from_environment()) as notifier,
        private_files(),
        locked(state_dir),
        binding.bound_listeners(settings.worker.addresses) as listeners,
    ):
        mode = int(settings.server.socket_mode, 8)
        await wait_for_database(settings, notifier, unavailable(listeners, mode, certificate))
        async with (
            opened_meanwhile(
                opened_once_possible(lambda: open_history(settings, state_dir), settings, notifier),
                unavailable(listeners, mode, certificate, WAITS_FOR_HISTORY),
            ) as store,
            supervised(
                store,
                launcher,
                await attach(*fork_server),
                settings,
                confinement=confinement,
                observe=metrics.observe,
            ) as (supervisor, supervising),
            command_controls(store, supervisor, settings.supervisor.max_running) as commands,
        ):
            health = Health(store, notifier, restart_helps=False)
            inputs = MetricInputs(store, supervisor, state_dir, settings.supervisor.max_running)
            async with (
                serving_probes(
                    settings,
                    listeners,
                    certificate,
                    store=store,
                    commands=commands,
                    readiness=partial(_readiness, store, health, supervisor, supervising),
                    render_metrics=partial(metrics.render_own, inputs),
                    notifier=notifier,
                ) as served,
                background_task("health check", health.run()) as checking,
                background_task(
                    "reloader", reloader.run(served.authenticator, certificate, store, served.audit)
                ) as reloading,
                background_task("reaper", pid_namespace.reap_orphans()) as reaping,
            ):
                startup_warnings.emit_for_worker(settings)
                fields = {**describe(settings), "state_dir": str(state_dir), "version": __version__}
                log.info("running jobs", extra=fields)
                notifier.ready(f"running jobs as {settings.worker.name}")
                freeze_garbage_collector()
                stop.start_complete()
                tasks = (supervising, checking, reloading, reaping, *commands.serving, *served.tasks)
                await first_of(stop.wait(), *tasks)
                notifier.stopping()
                async with background_task("stop timeout", extend_stop_timeout(notifier)):
                    await finish_jobs(supervisor, on_stop, stop, *tasks)
                ended_early = any(task.done() for task in tasks)
            left = supervisor.running_count
        log_stop(left, state_dir)
        return 1 if ended_early or any(map(has_failed, tasks)) else 0


def _readiness(
    store: Store, health: Health, supervisor: Supervisor, supervising: asyncio.Task[None], audit: AuditProbe
) -> Readiness:
    return Readiness(store, health, audit, supervisor, supervising, accepts_jobs=False)
