"""The metrics for Prometheus: what was observed since the start, and the state at the time of the scrape.

Owned by the service, which calls `Metrics.observe` at each attempt's end and passes in the inputs of everything else.
Names and units follow prometheus.io/docs/practices/naming. Must not know HTTP or SQL.
"""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from shellrunner import __version__
from shellrunner.clock import now_ms
from shellrunner.model import Claim, Delivery, End, Ending, State, Stream, Volume
from shellrunner.store import ClusterFigures, HistoryFigures, HistorySize, QueueOverview, QueueState

__all__ = ["MetricInputs", "Metrics", "disable_created_samples"]

Labels = tuple[str, ...]

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
# Seconds: from an empty job to one that runs for a day.
_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
    _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, _DAY,
)  # fmt: skip


class KeeperCounts(Protocol):
    """What the supervisor counts; implemented by `supervisor.Supervisor`."""

    @property
    def running_count(self) -> int:
        """Jobs that have a keeper and whose end is not recorded yet."""

    @property
    def idle_count(self) -> int:
        """Keepers that wait for a job."""

    @property
    def unknown_count(self) -> int:
        """Keepers that run a command which the history does not know."""


class HttpCounts(Protocol):
    """What the web side counts; implemented by `web.app_keys.HttpFigures`."""

    @property
    def followers(self) -> Mapping[str, int]:
        """Open streams, by kind."""

    @property
    def connections(self) -> int:
        """Open connections."""

    @property
    def unauthenticated(self) -> int:
        """Those on which nobody was authenticated yet."""

    @property
    def cut(self) -> Mapping[str, int]:
        """Connections closed by the server, by reason."""

    @property
    def problems(self) -> Mapping[str, int]:
        """Problem responses, by the last part of their type."""

    @property
    def suppressed(self) -> int:
        """Lines of the audit log for refused requests that were counted instead of written."""


@dataclass(frozen=True, slots=True)
class MetricInputs:
    """The inputs of the figures that are read at each scrape; `max_running` is the setting."""

    store: HistoryFigures
    supervisor: KeeperCounts
    state_dir: Path
    max_running: int


class _QueueHistograms(NamedTuple):
    """The histograms of one queue. Looked up once: resolving labels costs as much as all the counting."""

    wait: Histogram
    run: Histogram


def disable_created_samples() -> None:
    """Switch off the `_created` gauge beside each counter, for the whole process.

    It would repeat, for every counter, the time at which this process started, which is a metric of its own.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one service, in a registry of their own."""

    def __init__(self, queues: Iterable[str]) -> None:
        """Start at 0 for each of these queues: a rate needs a first value before the first event."""
        self._registry = registry = CollectorRegistry()
        self._waits = _histogram("wait", "Seconds from when an attempt could start until it started.", registry)
        self._runs = _histogram("run", "Seconds from an attempt's start to its command's end.", registry)
        self._queues = {queue: self._add_queue(queue) for queue in queues}
        self._stored = _by_stream("", "Bytes of output of ended attempts that were stored.", registry)
        self._dropped = _by_stream("dropped_", "Bytes of output of ended attempts that were dropped.", registry)
        ProcessCollector(registry=registry)

    def _add_queue(self, queue: str) -> _QueueHistograms:
        return _QueueHistograms(self._waits.labels(queue), self._runs.labels(queue))

    def observe(self, claim: Claim, end: End, volume: Volume) -> None:
        """Count an attempt that ended."""
        queue = claim.spec.queue
        histograms = self._queues.get(queue)
        if histograms is None:  # the job was accepted when the configuration still named its queue
            histograms = self._queues[queue] = self._add_queue(queue)
        if end.started is not None and claim.ready is not None:
            # The wall clock may have been set back between the two.
            histograms.wait.observe(max(0, end.started - claim.ready) / 1000)
        if end.duration is not None:
            histograms.run.observe(end.duration)
        _add(self._stored, volume.stdout_bytes, volume.stderr_bytes)
        _add(self._dropped, volume.stdout_dropped, volume.stderr_dropped)

    async def render(self, inputs: MetricInputs, web: HttpCounts, *, openmetrics: bool) -> bytes:
        """Return all metrics as of now, as OpenMetrics 1.0.0 or in Prometheus' text format 0.0.4.

        Raises:
            StoreUnavailable: the history cannot be read.
        """
        queues, size = await inputs.store.queues(), await inputs.store.size()
        return self._format([*_service_metrics(inputs, queues, size), *_web_metrics(web)], openmetrics=openmetrics)

    async def render_own(self, inputs: MetricInputs, web: HttpCounts, *, openmetrics: bool) -> bytes:
        """Return the metrics of this process alone, which need no history: those of a worker.

        They are there while PostgreSQL is not.
        """
        return self._format([*_own_metrics(inputs), *_web_metrics(web)], openmetrics=openmetrics)

    def _format(self, current: list[Metric], *, openmetrics: bool) -> bytes:
        scrape = _Scrape(self._registry, current)
        return bytes(generate_openmetrics(scrape)) if openmetrics else generate_latest(scrape)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Scrape:
    """The collector of one response, so that concurrent scrapes do not mix."""

    observed: CollectorRegistry
    current: list[Metric]

    def collect(self) -> Iterator[Metric]:
        yield from self.current
        yield from self.observed.collect()


def _service_metrics(inputs: MetricInputs, queues: QueueOverview, size: HistorySize) -> Iterator[Metric]:
    yield _jobs(size, queues.queues)
    yield from _own_metrics(inputs, queues.queues)
    yield from _queue_metrics(queues)
    yield from _history_metrics(inputs, size)
    text = "Whether jobs are held because the history was copied or restored: 1 until an admin resumes."
    yield _gauge("shellrunner_held", text, {(): int(queues.held is not None)})


def _own_metrics(inputs: MetricInputs, queues: Iterable[QueueState] = ()) -> Iterator[Metric]:
    """Yield what this process has counted, and what it runs; `queues` have figures from the start on."""
    yield InfoMetricFamily(
        "shellrunner_build",
        "Versions of shellrunner and Python; the value is always 1.",
        {"version": __version__, "python": platform.python_version()},
    )
    yield _ends(inputs.store, queues)
    text = "Transactions committed to the history."
    yield _counter("shellrunner_history_commits_total", text, {(): inputs.store.commits})
    if inputs.store.cluster is not None:
        yield from _cluster_metrics(inputs.store.cluster, inputs.state_dir)
    disk = os.statvfs(inputs.state_dir)
    free = disk.f_bavail * disk.f_frsize
    yield _gauge("shellrunner_disk_free_bytes", "Bytes free on the state directory's file system.", {(): free})
    yield _gauge("shellrunner_max_running", "Maximum number of commands that run at once.", {(): inputs.max_running})
    yield _gauge(
        "shellrunner_keepers",
        "Keepers: busy with a job whose end is not recorded yet, or idle.",
        {("busy",): inputs.supervisor.running_count, ("idle",): inputs.supervisor.idle_count},
        "state",
    )
    yield _gauge(
        "shellrunner_unknown_keepers",
        "Keepers that run a command which the history does not know.",
        {(): inputs.supervisor.unknown_count},
    )


def _web_metrics(web: HttpCounts) -> Iterator[Metric]:
    yield _gauge("shellrunner_connections", "Open connections.", {(): web.connections})
    text = "Open connections on which nobody was authenticated yet."
    yield _gauge("shellrunner_unauthenticated_connections", text, {(): web.unauthenticated})
    yield _by(_counter, "shellrunner_connections_cut_total", "Connections closed by the server.", web.cut, "reason")
    yield _by(_counter, "shellrunner_problems_total", "Responses that were problems.", web.problems, "problem")
    text = "Lines of the audit log for refused requests that were counted instead of written."
    yield _counter("shellrunner_audit_suppressed_total", text, {(): web.suppressed})
    text = "Open streams: one job's events, its plain output, or all statuses."
    yield _by(_gauge, "shellrunner_followers", text, web.followers, "kind")


def _jobs(size: HistorySize, queues: Iterable[QueueState]) -> Metric:
    numbers = dict.fromkeys(State, 0)
    for queue in queues:
        numbers[State.WAITING] += queue.waiting
        numbers[State.QUEUED] += queue.queued
        numbers[State.RUNNING] += queue.running
    numbers[State.DONE] = size.jobs
    return _gauge("shellrunner_jobs", "Jobs in the history.", {(state,): n for state, n in numbers.items()}, "state")


def _ends(store: HistoryFigures, queues: Iterable[QueueState]) -> Metric:
    names = {queue.name for queue in queues} | {name for name, _ in store.endings}
    ends: dict[Labels, float] = {
        (name, ending): store.endings[name, ending] for name in sorted(names) for ending in Ending
    }
    return _counter("shellrunner_jobs_ended_total", "Jobs that ended.", ends, "queue", "ending")


def _queue_metrics(queues: QueueOverview) -> Iterator[Metric]:
    now = now_ms()

    def gauge(name: str, text: str, figures: Iterable[float]) -> Metric:
        names = [(queue.name,) for queue in queues.queues]
        return _gauge(f"shellrunner_queue_{name}", text, dict(zip(names, figures, strict=True)), "queue")

    yield gauge("depth", "Queued jobs.", [queue.queued for queue in queues.queues])
    yield gauge("waiting", "Jobs that wait for a time or for other jobs.", [queue.waiting for queue in queues.queues])
    yield gauge("running", "Running jobs.", [queue.running for queue in queues.queues])
    limits = [float("inf") if queue.limit.max_running is None else queue.limit.max_running for queue in queues.queues]
    yield gauge("limit", "Maximum number of its jobs that run at once.", limits)
    ages = [0 if queue.oldest is None else max(0, now - queue.oldest) / 1000 for queue in queues.queues]
    yield gauge("oldest_seconds", "Seconds since its oldest queued job was accepted; 0 if it has none.", ages)
    paused = [queue.paused for queue in queues.queues]
    yield gauge("paused", "1 if it is paused, alone or with the whole service.", paused)


def _history_metrics(inputs: MetricInputs, size: HistorySize) -> Iterator[Metric]:
    state_dir, store = inputs.state_dir, inputs.store
    removals: dict[Labels, float] = {(reason,): store.removals[reason] for reason in ("age", "number", "bytes")}
    yield _counter("shellrunner_history_removed_total", "Jobs that retention removed.", removals, "reason")
    text = "Seconds by which the wall clock is ahead of the time that was seen to pass, until it is believed."
    yield _gauge("shellrunner_clock_unconfirmed_seconds", text, {(): store.unconfirmed_time})
    tries: dict[Labels, float] = {(outcome,): store.callback_tries[outcome] for outcome in Delivery}
    yield _counter("shellrunner_callback_tries_total", "Attempts to deliver a callback.", tries, "outcome")
    database = sum(_size(state_dir / name) for name in ("history.db", "history.db-wal"))
    yield _gauge("shellrunner_history_bytes", "Size of history.db and its write-ahead log, in bytes.", {(): database})
    yield _gauge("shellrunner_kept_output_bytes", "Bytes of output of done jobs in the history.", {(): size.bytes})


def _cluster_metrics(figures: ClusterFigures, state_dir: Path) -> Iterator[Metric]:
    yield _by(_gauge, "shellrunner_hosts", "Hosts that share the history in PostgreSQL.", figures.hosts, "state")
    text = "Seconds since this node renewed its lease; the others call it unreachable after 15."
    yield _gauge("shellrunner_lease_age_seconds", text, {(): figures.lease_age})
    text = "Whether PostgreSQL could be written when this node tried it last."
    yield _gauge("shellrunner_database_available", text, {(): int(figures.is_available)})
    text = "Jobs that were claimed for keepers of this node."
    yield _counter("shellrunner_claims_total", text, {(): figures.claims})
    text = "Ends of jobs that this node knows and has not recorded in PostgreSQL yet."
    yield _gauge("shellrunner_unrecorded_ends", text, {(): figures.unrecorded_ends})
    text = "Outputs of which this node has more than it has sent to PostgreSQL, by the state of their jobs."
    yield _by(_gauge, "shellrunner_unsent_outputs", text, figures.unsent_outputs, "state")
    text = "Bytes of output in files of this node, beyond what slots hold: removed once they are in PostgreSQL."
    yield _gauge("shellrunner_spill_bytes", text, {(): _directory_size(state_dir / "runs")})
    text = "Transactions in PostgreSQL: committed ones that write, and those that only read."
    kinds = {"write": figures.written, "read": figures.read}
    yield _by(_counter, "shellrunner_database_transactions_total", text, kinds, "kind")
    text = "Transactions in PostgreSQL that were run again because another one was in the way."
    yield _counter("shellrunner_database_retries_total", text, {(): figures.retries})
    notes = {"sent": figures.notes_sent, "received": figures.notes_received}
    text = "Notifications between nodes, through PostgreSQL."
    yield _by(_counter, "shellrunner_notifications_total", text, notes, "direction")


def _by(family: Callable[..., Metric], name: str, text: str, values: Mapping[str, int], label: str) -> Metric:
    return family(name, text, {(key,): value for key, value in values.items()}, label)


def _gauge(name: str, text: str, values: Mapping[Labels, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, values: Mapping[Labels, float], *labels: str) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the write-ahead log is created by the first write
        return 0


def _directory_size(path: Path) -> int:
    try:
        return sum(_size(each) for each in path.iterdir())
    except FileNotFoundError:  # nothing has ever exceeded a slot
        return 0


def _histogram(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(f"shellrunner_job_{name}_seconds", text, ("queue",), registry=registry, buckets=_BUCKETS)


def _by_stream(name: str, text: str, registry: CollectorRegistry) -> tuple[Counter, Counter]:
    both = Counter(f"shellrunner_output_{name}bytes_total", text, ("stream",), registry=registry)
    return both.labels(Stream.STDOUT), both.labels(Stream.STDERR)


def _add(counters: tuple[Counter, Counter], stdout: int, stderr: int) -> None:
    if stdout:
        counters[0].inc(stdout)
    if stderr:
        counters[1].inc(stderr)
