"""The composition root: the only place that picks the parts and knows all of them.

Owned by the command line, which hands it settings. What lives how long is one block, read from the top.
"""

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from functools import partial
from pathlib import Path

from aiohttp import web

from shellrunner import __version__
from shellrunner.callbacks import Caller
from shellrunner.config import Settings
from shellrunner.errors import ShellrunnerError, StateLocked, StoreUnavailable
from shellrunner.metrics import Metrics, Sources
from shellrunner.store import Store
from shellrunner.store.sqlite import QueueLimit, QueueLimits, Retention, open_store
from shellrunner.supervisor import Controls, Keepers, Supervisor
from shellrunner.supervisor.links import ForkServer, attach, exec_fork_server
from shellrunner.systemd import Notifier
from shellrunner.web import Runner, make_app

log = logging.getLogger("shellrunner.service")

_PULSE = 5.0  # seconds between proofs that the history can be written, unless systemd asks more often
_LAST_WORDS = 0.5  # seconds that open requests have when the service stops; aiohttp takes them twice


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    Raises:
        ShellrunnerError: it could not start, and the words say why.
    """
    return asyncio.run(serve(settings))


async def serve(settings: Settings) -> int:
    """Be the service, from the first lock to the last log line."""
    state_dir = prepare(settings.store.state_dir)
    # Before anything is opened: what the fork server does not inherit, no keeper and no command ever holds.
    fork_server = exec_fork_server(state_dir)
    use_all_descriptors()
    metrics = Metrics(settings.queues)
    with contextlib.closing(Notifier.from_environment()) as notifier, locked(state_dir), caught_signals() as stop:
        async with (
            open_store(state_dir, retention(settings), queue_limits(settings)) as store,
            supervised(store, state_dir, settings, await attach(*fork_server), metrics) as (supervisor, crashed),
            at_work("caller", Caller(store, settings.callbacks).run()) as calling,
        ):
            pulse = Pulse(store, notifier)
            sources = Sources(store, supervisor, state_dir, settings.supervisor.max_running)
            app = make_app(
                store,
                settings,
                lambda: pulse.complaints() + _if_dead(crashed),
                Controls(store, supervisor.kept),
                partial(metrics.render, sources),
            )
            async with listening(app, settings) as urls, asyncio.TaskGroup() as tasks:
                beating = tasks.create_task(pulse.beat(), name="pulse")
                log.info("listening", extra={"urls": urls, "state_dir": str(state_dir), "version": __version__})
                spare_the_collector()
                notifier.ready(f"listening on {urls[0]}")
                await _first(stop.wait(), crashed, calling)
                notifier.stopping()
                patience = tasks.create_task(ask_for_time(notifier), name="patience")
                await leave(supervisor, settings.supervisor.on_stop, stop, crashed, calling)
                patience.cancel()
                beating.cancel()
            left = supervisor.running
        words = {"jobs": left, "slots": str(state_dir / "slots")}
        log.info("stopped; running jobs go on under their keepers" if left else "stopped", extra=words)
        return 0 if crashed.cancelled() and calling.cancelled() else 1


def prepare(state_dir: Path) -> Path:
    """Make the state directory and what must be in it, for this user only.

    Raises:
        ShellrunnerError: it cannot be made or entered.
    """
    try:
        for directory in (state_dir, state_dir / "slots", state_dir / "runs"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the state directory {state_dir} cannot be used: {error.strerror}") from None
    return state_dir


def use_all_descriptors() -> None:
    """Raise the soft limit of open files: each stream is one, each keeper two. Commands keep the limit as it was."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def spare_the_collector() -> None:
    """Leave what was made at the start, and lives as long as the service, out of every collection from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)  # a job makes some hundred objects and no cycles


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the state directory's lock: one server at a time.

    Raises:
        StateLocked: another server has it.
    """
    fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StateLocked(f"another server (pid {holder}) works on {state_dir}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def caught_signals() -> Iterator["Stop"]:
    """Turn SIGTERM and SIGINT into a wish to stop; SIGHUP does nothing yet, but ends nothing either."""
    loop, stop = asyncio.get_running_loop(), Stop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.ask)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    try:
        yield stop
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(signum)


class Stop:
    """How often somebody asked for the end: once is a wish, twice is impatience."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self._once, self._twice = asyncio.Event(), asyncio.Event()

    def ask(self) -> None:
        """Ask (again)."""
        (self._twice if self._once.is_set() else self._once).set()

    async def wait(self) -> None:
        """Return once somebody asked."""
        await self._once.wait()

    async def impatience(self) -> None:
        """Return once somebody asked again."""
        await self._twice.wait()


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
    store: Store, state_dir: Path, settings: Settings, forks: ForkServer, metrics: Metrics
) -> AsyncIterator[tuple[Supervisor, asyncio.Task[None]]]:
    """Run the supervisor; also yield its task, which is done only if it crashed."""
    keepers = Keepers(state_dir, {"history": store.history, "program": __version__}, forks)
    supervisor = Supervisor(store, keepers, settings.jobs, settings.supervisor.max_running, metrics.observe)
    with contextlib.closing(keepers):
        async with at_work("supervisor", supervisor.run()) as task:
            yield supervisor, task


@contextlib.asynccontextmanager
async def at_work(name: str, work: Coroutine[object, object, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Have a part of the service work; yield its task, which is done only if it crashed."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        crashed = task.done()
        task.cancel()
        await asyncio.wait([task])
        if crashed and (bug := task.exception()):
            log.critical("the %s crashed", name, exc_info=bug)


@contextlib.asynccontextmanager
async def listening(app: web.Application, settings: Settings) -> AsyncIterator[list[str]]:
    """Serve the app; yield the URLs under which it can be reached.

    Raises:
        ShellrunnerError: the port is taken, or not ours to take.
    """
    server = settings.server
    runner = Runner(app, access_log=None, handle_signals=False, shutdown_timeout=_LAST_WORDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, server.host, server.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ShellrunnerError(f"cannot listen on {server.host} port {server.port}: {reason}") from None
        yield [f"http://{_authority(*address[:2])}" for address in runner.addresses]
    finally:
        await runner.cleanup()


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Pulse:
    """Proves again and again that the history can be written, and tells systemd only then."""

    def __init__(self, store: Store, notifier: Notifier) -> None:
        """Beat as often as systemd's watchdog asks, at least every few seconds."""
        self._store, self._notifier = store, notifier
        self._pause = min(_PULSE, notifier.watchdog_interval or _PULSE)
        self._last = time.monotonic()
        self._complaint: str | None = None

    async def beat(self) -> None:
        """Go on until cancelled."""
        while True:
            await self.prove()
            await asyncio.sleep(self._pause)

    async def prove(self) -> None:
        """Write to the history; only if that succeeds, tell systemd."""
        try:
            await self._store.check()
        except StoreUnavailable as error:
            if self._complaint is None:
                log.error("the history cannot be written", extra={"reason": error.detail})  # noqa: TRY400
            self._complaint = error.detail
        else:
            self._complaint, self._last = None, time.monotonic()
            self._notifier.watchdog()

    def complaints(self) -> list[str]:
        """Why the history is not fit for work, or nothing."""
        if self._complaint:
            return [self._complaint]
        silent = time.monotonic() - self._last
        return [f"the history has not answered for {silent:.0f} s"] if silent > 3 * self._pause else []


def _if_dead(supervisor: asyncio.Task[None]) -> list[str]:
    return ["the supervisor is dead"] if supervisor.done() else []


async def leave(supervisor: Supervisor, how: str, stop: Stop, *parts: asyncio.Task[None]) -> None:
    """Do with the running jobs what `on_stop` says; a second signal, or a part that crashes, stops the waiting."""
    if how != "keep" and not any(part.done() for part in parts):
        log.info("waiting for running jobs", extra={"on_stop": how, "jobs": supervisor.running})
        await _first(supervisor.finish_up(cancel=how == "cancel"), stop.impatience(), *parts)


async def ask_for_time(notifier: Notifier) -> None:
    """While the stop waits for commands, keep systemd from ending it (TimeoutStopSec)."""
    while True:
        notifier.extend(3 * _PULSE)
        await asyncio.sleep(_PULSE)


async def _first(*things: "asyncio.Future[None] | Coroutine[object, object, None]") -> None:
    """Return once one of them is over; cancel those that are not tasks of somebody else."""
    ours = {asyncio.ensure_future(thing) for thing in things if not isinstance(thing, asyncio.Future)}
    others = {thing for thing in things if isinstance(thing, asyncio.Future)}
    try:
        await asyncio.wait(ours | others, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ours:
            task.cancel()
