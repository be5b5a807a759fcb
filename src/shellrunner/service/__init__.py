"""The composition root: creates every part of the service and connects them.

Used by the command line, which passes in the settings. The lifetimes of all parts are one block in `serve`, read
top-down. The only package that knows all the others.
"""

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

from shellrunner import __version__
from shellrunner.access.authenticator import open_authenticator
from shellrunner.callbacks import CallbackSender
from shellrunner.config import Settings
from shellrunner.live_usage import UsageMeter
from shellrunner.log import handler
from shellrunner.metrics import MetricInputs, Metrics, disable_created_samples
from shellrunner.service import descriptors, pid_namespace, startup_warnings
from shellrunner.service.audit_file import AuditFile
from shellrunner.service.audit_log import AuditLog
from shellrunner.service.health import Health, Readiness
from shellrunner.service.limits import queue_limits
from shellrunner.service.network import binding
from shellrunner.service.network.listening import check_passed_sockets, listening, take_passed_sockets
from shellrunner.service.network.tls import Certificate
from shellrunner.service.profile_check import open_confinement
from shellrunner.service.reload import Reloader
from shellrunner.service.shutdown import StopRequest, extend_stop_timeout, finish_jobs, first_of, handled_signals
from shellrunner.service.state_dir import locked, prepare, private_files
from shellrunner.service.worker_threads import start_worker_threads
from shellrunner.store import Retention, Work
from shellrunner.store.sqlite.composition import open_store
from shellrunner.supervisor import Controls, KeeperPool, Supervisor
from shellrunner.supervisor.confinement import Confinement
from shellrunner.supervisor.fork_server_connection import ForkServerConnection, ForkServerLauncher, attach
from shellrunner.systemd.notify import Notifier
from shellrunner.tasks import background_task, has_failed
from shellrunner.web import make_app
from shellrunner.web.security.loopback import BoundAddresses

log = logging.getLogger("shellrunner.service")


def run(settings: Settings, reread: Callable[[], Settings] | None = None, *, new_history: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status. On SIGHUP, `reread` reads the settings again.

    With `new_history`, what another history has left in the state directory is set aside, instead of refused.

    Raises:
        ShellrunnerError: the service could not start; the text says why.
    """
    runner = asyncio.Runner()
    try:
        return runner.run(serve(settings, reread, new_history=new_history))
    finally:
        # It starts a thread to wait for the worker threads, for which there may be no process left. They end all the
        # same, with this process.
        with contextlib.suppress(RuntimeError):
            runner.close()


async def serve(
    settings: Settings, reread: Callable[[], Settings] | None = None, *, new_history: bool = False
) -> int:
    """Run the service, from the first lock to the last log line; return the exit status."""
    passed, certificate = take_passed_sockets(settings), Certificate.from_settings(settings.server)
    reloader = Reloader(settings, reread or (lambda: settings), partial(check_passed_sockets, passed))
    # Before anything is created: a stop request leaves nothing behind.
    with handled_signals(reloader.request) as stop:
        try:
            return await _serve(settings, stop, reloader, passed, certificate, new_history=new_history)
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
) -> int:
    state_dir = prepare(settings.store.state_dir)
    launcher = ForkServerLauncher.from_process(state_dir)
    # Before anything is opened: what the fork server does not inherit, no keeper and no command ever holds.
    fork_server = launcher.launch()
    descriptors.raise_limit()
    settings = descriptors.within_limit(settings)
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
        async with (
            audit_sink(settings.audit.file) as audit,
            open_store(
                state_dir,
                retention(settings),
                queue_limits(settings),
                settings.store.min_free_bytes,
                new_history=new_history,
            ) as store,
            supervised(
                store, launcher, await attach(*fork_server), settings, confinement=confinement, metrics=metrics
            ) as (
                supervisor,
                supervising,
            ),
            background_task("callback sender", CallbackSender(store, settings.callbacks).run()) as sending,
        ):
            health = Health(store, notifier)
            readiness = Readiness(store, health, audit, supervisor, supervising)
            authenticator = await open_authenticator(settings.auth, store)
            app = make_app(
                store,
                settings,
                not_ready_reasons=readiness.reasons,
                controls=Controls(store, supervisor.running_job),
                unknown_keepers=supervisor.unknown_keepers,
                usage_reader=UsageMeter(supervisor.running_jobs),
                render_metrics=partial(
                    metrics.render, MetricInputs(store, supervisor, state_dir, settings.supervisor.max_running)
                ),
                authenticator=authenticator,
                audit_sink=audit,
                bound_addresses=listeners.bound_addresses,
            )
            async with (
                background_task("reloader", reloader.run(authenticator, certificate, store, audit)) as reloading,
                background_task("health check", health.run()) as checking,
                background_task("reaper", pid_namespace.reap_orphans()) as reaping,
                listening(app, listeners, int(settings.server.socket_mode, 8), certificate) as urls,
            ):
                announce_start(settings, listeners.bound_addresses, urls, state_dir, notifier)
                stop.start_complete()
                tasks = (supervising, sending, checking, reloading, reaping)
                await first_of(stop.wait(), *tasks)
                notifier.stopping()
                async with background_task("stop timeout", extend_stop_timeout(notifier)):
                    await finish_jobs(supervisor, on_stop, stop, *tasks)
                ended_early = any(task.done() for task in tasks)
            left = supervisor.running_count
        fields = {"jobs": left, "slots": str(state_dir / "slots")}
        continuing = "stopped; running jobs continue under their keepers"
        log.info(continuing if left and not pid_namespace.ends_with_service() else "stopped", extra=fields)
        return 1 if ended_early or any(map(has_failed, tasks)) else 0


def announce_start(
    settings: Settings, bound: BoundAddresses, urls: list[str], state_dir: Path, notifier: Notifier
) -> None:
    """Log the startup warnings and that the service listens, and notify systemd."""
    startup_warnings.emit(settings, bound)
    log.info("listening", extra={"urls": urls, "state_dir": str(state_dir), "version": __version__})
    notifier.ready(f"listening on {urls[0]}")
    freeze_garbage_collector()


def freeze_garbage_collector() -> None:
    """Exclude what was made at the start, and lives as long as the service, from every collection from now on.

    The command line has disabled the collector, because what is imported stays; the little garbage ends here.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)  # a job makes some hundred objects and no cycles
    gc.enable()


@contextlib.asynccontextmanager
async def audit_sink(path: Path | None) -> AsyncIterator[AuditFile | AuditLog]:
    """Open the audit file; None: the audit log is among the other lines on standard error.

    Raises:
        ConfigError: the file cannot be used.
    """
    if path is None:
        yield AuditLog(handler())
        return
    file = AuditFile(path)
    try:
        yield file
    finally:
        await file.close()


def retention(settings: Settings) -> Retention:
    """Return how much of the history is kept."""
    store = settings.store
    return Retention(days=store.retention_days, jobs=store.retention_jobs, bytes=store.retention_bytes)


@contextlib.asynccontextmanager
async def supervised(
    store: Work,
    launcher: ForkServerLauncher,
    fork_server: ForkServerConnection,
    settings: Settings,
    *,
    confinement: Confinement,
    metrics: Metrics,
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
    supervisor = Supervisor(
        store, keepers, settings.jobs, confinement, max_running=max_running, observe=metrics.observe
    )
    with contextlib.closing(keepers):
        async with background_task("supervisor", supervisor.run()) as task:
            yield supervisor, task
