"""The composition root: creates every part of the service and connects them.

Used by the command line, which passes in the settings. The lifetimes of all parts are one block in `serve`, read
top-down. The only package that knows all the others.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from shellrunner import __version__
from shellrunner.access.authenticator import open_authenticator
from shellrunner.callbacks import CallbackSender
from shellrunner.config import Settings
from shellrunner.metrics import MetricInputs, Metrics, disable_created_samples
from shellrunner.service import startup_warnings
from shellrunner.service.audit_file import audit_sink
from shellrunner.service.database_wait import (
    WAITS_FOR_HISTORY,
    once_possible,
    opened_meanwhile,
    opened_once_possible,
    wait_for_database,
)
from shellrunner.service.health import Health, Readiness
from shellrunner.service.network import binding
from shellrunner.service.network.listening import check_passed_sockets, listening, take_passed_sockets
from shellrunner.service.network.tls import Certificate
from shellrunner.service.network.unavailable_responder import unavailable
from shellrunner.service.opened_history import check_back_end, describe, open_history
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
from shellrunner.service.session_reader import follow_sessions
from shellrunner.service.state_dir import locked, prepare, private_files
from shellrunner.service.supervision import (
    command_controls,
    freeze_garbage_collector,
    log_stop,
    run_to_end,
    supervised,
    without_jobs,
)
from shellrunner.supervisor.fork_server_connection import ForkServerLauncher, attach
from shellrunner.systemd.notify import Notifier
from shellrunner.tasks import background_task, has_failed
from shellrunner.web import make_app
from shellrunner.web.security.loopback import BoundAddresses

log = logging.getLogger("shellrunner.service")


def run(
    settings: Settings,
    reread: Callable[[], Settings] | None = None,
    *,
    new_history: bool = False,
    runs_jobs: bool = True,
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status. On SIGHUP, `reread` reads the settings again.

    With `new_history`, what another history has left in the state directory is set aside, instead of refused. Without
    `runs_jobs`, jobs are left to other hosts, which requires a history in PostgreSQL.

    Raises:
        ShellrunnerError: the service could not start; the text says why.
    """
    return run_to_end(serve(settings, reread, new_history=new_history, runs_jobs=runs_jobs))


async def serve(
    settings: Settings,
    reread: Callable[[], Settings] | None = None,
    *,
    new_history: bool = False,
    runs_jobs: bool = True,
) -> int:
    """Run the service, from the first lock to the last log line; return the exit status."""
    check_back_end(settings, runs_jobs=runs_jobs, new_history=new_history)
    passed, certificate = take_passed_sockets(settings), Certificate.from_settings(settings.server)
    reloader = Reloader(settings, reread or (lambda: settings), partial(check_passed_sockets, passed))
    # Before anything is created: a stop request leaves nothing behind.
    with handled_signals(reloader.request) as stop:
        try:
            return await _serve(
                settings, stop, reloader, passed, certificate, new_history=new_history, runs_jobs=runs_jobs
            )
        except asyncio.CancelledError:
            if not stop.take_interruption():
                raise
    log.info("stopped before the start was complete")
    return 0


async def _serve(
    settings: Settings,
    stop: StopRequest,
    reloader: Reloader,
    passed: Sequence[socket.socket],
    certificate: Certificate | None,
    *,
    new_history: bool,
    runs_jobs: bool,
) -> int:
    state_dir = prepare(settings.store.state_dir)
    launcher = ForkServerLauncher.from_process(state_dir)
    # Before anything is opened: what the fork server does not inherit, no keeper and no command ever holds.
    fork_server = launcher.launch()
    descriptors.raise_limit()
    settings = descriptors.within_limit(settings)
    if not runs_jobs:
        settings = without_jobs(settings)
    start_worker_threads()
    disable_created_samples()
    metrics = Metrics(settings.queues)
    confinement = await open_confinement(settings, state_dir, passed)
    on_stop = pid_namespace.stop_policy(settings.supervisor.on_stop)
    with (
        contextlib.closing(Notifier.from_environment()) as notifier,
        private_files(),
        locked(state_dir),
        binding.bound_listeners(settings.server.addresses, passed) as listeners,
    ):
        mode = int(settings.server.socket_mode, 8)
        await wait_for_database(settings, notifier, unavailable(listeners, mode, certificate))
        async with (
            audit_sink(settings.audit.file) as audit,
            opened_meanwhile(
                opened_once_possible(
                    lambda: open_history(settings, state_dir, new_history=new_history), settings, notifier
                ),
                unavailable(listeners, mode, certificate, WAITS_FOR_HISTORY)
                if settings.store.url
                else contextlib.nullcontext(),
            ) as store,
            supervised(
                store,
                launcher,
                await attach(*fork_server),
                settings,
                confinement=confinement,
                observe=metrics.observe,
            ) as (
                supervisor,
                supervising,
            ),
            command_controls(store, supervisor, settings.supervisor.max_running) as commands,
            background_task("callback sender", CallbackSender(store, settings.callbacks).run()) as sending,
        ):
            health = Health(store, notifier, restart_helps=not settings.store.url)
            readiness = Readiness(store, health, audit, supervisor, supervising)
            authenticator = await once_possible(lambda: open_authenticator(settings.auth, store), notifier)
            app = make_app(
                store,
                settings,
                not_ready_reasons=readiness.reasons,
                controls=commands.controls,
                unknown_keepers=commands.keepers,
                usage_reader=commands.usage_reader,
                writer_leases=commands.writer_leases,
                render_metrics=partial(
                    metrics.render, MetricInputs(store, supervisor, state_dir, settings.supervisor.max_running)
                ),
                hosts=store.hosts,
                authenticator=authenticator,
                audit_sink=audit,
                bound_addresses=listeners.bound_addresses,
            )
            async with (
                background_task("reloader", reloader.run(authenticator, certificate, store, audit)) as reloading,
                background_task("session reader", follow_sessions(store, authenticator)) as reading,
                background_task("health check", health.run()) as checking,
                background_task("reaper", pid_namespace.reap_orphans()) as reaping,
                listening(app, listeners, mode, certificate) as urls,
            ):
                announce_start(settings, listeners.bound_addresses, urls, state_dir, notifier)
                stop.start_complete()
                tasks = (supervising, sending, checking, reloading, reading, reaping, *commands.serving)
                await first_of(stop.wait(), *tasks)
                notifier.stopping()
                async with background_task("stop timeout", extend_stop_timeout(notifier)):
                    await finish_jobs(supervisor, on_stop, stop, *tasks)
                ended_early = any(task.done() for task in tasks)
            left = supervisor.running_count
        log_stop(left, state_dir)
        return 1 if ended_early or any(map(has_failed, tasks)) else 0


def announce_start(
    settings: Settings, bound: BoundAddresses, urls: list[str], state_dir: Path, notifier: Notifier
) -> None:
    """Log the startup warnings and that the service listens, and notify systemd."""
    startup_warnings.emit(settings, bound)
    fields = {"urls": urls, "state_dir": str(state_dir), "version": __version__, **describe(settings)}
    log.info("listening", extra=fields)
    notifier.ready(f"listening on {urls[0]}")
    freeze_garbage_collector()
