"""The composition root: the only place that picks the parts and knows all of them.

Owned by the command line, which hands it settings. What lives how long is one block, read from the top.
"""

import asyncio
import contextlib
import gc
import logging
import resource
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from shellrunner import __version__
from shellrunner import log as log_room
from shellrunner.access.authenticator import open_authenticator
from shellrunner.callbacks import CallbackSender
from shellrunner.config import Settings
from shellrunner.metrics import MetricInputs, Metrics, disable_created_samples
from shellrunner.service import startup_warnings
from shellrunner.service.health import Health
from shellrunner.service.listening import check_passed, listening, take_passed
from shellrunner.service.reload import Reloader
from shellrunner.service.shutdown import ask_for_time, caught_signals, first_of, leave
from shellrunner.service.state_dir import locked, prepare, private_files
from shellrunner.service.tls import Certificate
from shellrunner.store import QueueLimit, QueueLimits, Retention, Work
from shellrunner.store.sqlite.store import open_store
from shellrunner.supervisor import Controls, KeeperPool, Supervisor
from shellrunner.supervisor.fork_server_connection import ForkServerConnection, ForkServerLauncher, attach
from shellrunner.systemd.notify import Notifier
from shellrunner.tasks import background_task
from shellrunner.web import make_app

log = logging.getLogger("shellrunner.service")


def run(settings: Settings, reread: Callable[[], Settings] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status. At SIGHUP, `reread` makes the settings anew.

    Raises:
        ShellrunnerError: it could not start, and the words say why.
    """
    return asyncio.run(serve(settings, reread))


async def serve(settings: Settings, reread: Callable[[], Settings] | None = None) -> int:
    """Be the service, from the first lock to the last log line."""
    passed, certificate = take_passed(settings), Certificate.of(settings.server)
    state_dir = prepare(settings.store.state_dir)
    # Before anything is opened: what the fork server does not inherit, no keeper and no command ever holds.
    launcher = ForkServerLauncher.from_process(state_dir)
    fork_server = launcher.launch()
    use_all_descriptors()
    disable_created_samples()
    metrics = Metrics(settings.queues)
    reloading = Reloader(settings, reread or (lambda: settings), partial(check_passed, passed))
    with (
        contextlib.closing(Notifier.from_environment()) as notifier,
        private_files(),
        locked(state_dir),
        caught_signals(reloading.ask) as stop,
    ):
        async with (
            open_store(state_dir, retention(settings), queue_limits(settings)) as store,
            supervised(store, launcher, await attach(*fork_server), settings, metrics) as (supervisor, crashed),
            background_task("caller", CallbackSender(store, settings.callbacks).run()) as calling,
        ):
            pulse = Health(store, notifier)
            door = await open_authenticator(settings.auth, store)
            app = make_app(
                store,
                settings,
                not_ready_reasons=lambda: pulse.complaints() + _if_dead(crashed),
                controls=Controls(store, supervisor.running_job),
                render_metrics=partial(
                    metrics.render, MetricInputs(store, supervisor, state_dir, settings.supervisor.max_running)
                ),
                authenticator=door,
                audit_sink=log_room.ledger(),
            )
            async with (
                background_task(
                    "reloading", reloading.work(door, [certificate.reload] if certificate else [])
                ) as rereading,
                background_task("pulse", pulse.beat()) as beating,
                listening(app, settings, passed, certificate) as urls,
            ):
                tell_of_the_start(settings, urls, state_dir, notifier)
                parts = (crashed, calling, beating, rereading)
                await first_of(stop.wait(), *parts)
                notifier.stopping()
                async with background_task("patience", ask_for_time(notifier)):
                    await leave(supervisor, settings.supervisor.on_stop, stop, *parts)
            left = supervisor.running_count
        words = {"jobs": left, "slots": str(state_dir / "slots")}
        log.info("stopped; running jobs go on under their keepers" if left else "stopped", extra=words)
        return 0 if all(part.cancelled() for part in parts) else 1


def tell_of_the_start(settings: Settings, urls: list[str], state_dir: Path, notifier: Notifier) -> None:
    """Say that it listens, in the log and to systemd; what is less safe than it should be, before that."""
    startup_warnings.tell(settings)
    log.info("listening", extra={"urls": urls, "state_dir": str(state_dir), "version": __version__})
    spare_the_collector()
    notifier.ready(f"listening on {urls[0]}")


def use_all_descriptors() -> None:
    """Raise the soft limit of open files: each stream is one, each keeper two. Commands keep the limit as it was."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def spare_the_collector() -> None:
    """Leave what was made at the start, and lives as long as the service, out of every collection from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)  # a job makes some hundred objects and no cycles


def retention(settings: Settings) -> Retention:
    """How much of the history is kept."""
    store = settings.store
    return Retention(days=store.retention_days, jobs=store.retention_jobs, bytes=store.retention_bytes)


def queue_limits(settings: Settings) -> QueueLimits:
    """How many jobs of each queue run at once, and how many may wait."""
    queues = {name: QueueLimit(queue.max_running, queue.max_queued) for name, queue in settings.queues.items()}
    return QueueLimits(settings.supervisor.max_queued, queues)


@contextlib.asynccontextmanager
async def supervised(
    store: Work,
    launcher: ForkServerLauncher,
    fork_server: ForkServerConnection,
    settings: Settings,
    metrics: Metrics,
) -> AsyncIterator[tuple[Supervisor, asyncio.Task[None]]]:
    """Run the supervisor; also yield its task, which is done only if it crashed."""
    keepers = KeeperPool(launcher, {"history": store.history_id, "program": __version__}, fork_server)
    supervisor = Supervisor(store, keepers, settings.jobs, settings.supervisor.max_running, metrics.observe)
    with contextlib.closing(keepers):
        async with background_task("supervisor", supervisor.run()) as task:
            yield supervisor, task


def _if_dead(supervisor: asyncio.Task[None]) -> list[str]:
    return ["the supervisor is dead"] if supervisor.done() else []
