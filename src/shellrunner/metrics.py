"""What Prometheus is told: what was observed since the start, and how everything stands when it asks.

Owned by the service, which has `Metrics` hear of each attempt's end and hands the sources of all else to it.
Names and units are Prometheus' (prometheus.io/docs/practices/naming). Must not know HTTP or SQL.
"""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

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
from shellrunner.store import QueueOverview, QueueState
from shellrunner.store.sqlite.store import SqliteStore
from shellrunner.supervisor import Supervisor
from shellrunner.web.app_keys import FrontFigures

__all__ = ["MetricInputs", "Metrics"]

Labels = tuple[str, ...]

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
# From an empty job to one that runs for a day.
_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
    _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, _DAY,
)  # fmt: skip

# Else each counter has a gauge beside it that says when it was made: of a process that tells its own start, noise.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class MetricInputs:
    """Who is asked for what stands now: `places` is how many commands may run at once."""

    store: SqliteStore
    supervisor: Supervisor
    state_dir: Path
    places: int


class _OfQueue(NamedTuple):
    """What is observed of one queue. Found once: to look labels up costs as much as all the counting."""

    waited: Histogram
    ran: Histogram


class Metrics:
    """All figures of one service, in a registry of their own."""

    def __init__(self, queues: Iterable[str]) -> None:
        """Begin at 0 for each of these queues: a rate needs a first value before the first event."""
        self._registry = registry = CollectorRegistry()
        self._waits = _histogram("wait", "From when an attempt could start to its start.", registry)
        self._runs = _histogram("run", "From an attempt's start to its command's end.", registry)
        self._queues = {queue: self._begin(queue) for queue in queues}
        self._stored = _by_stream("", "Output of ended attempts that was stored.", registry)
        self._dropped = _by_stream("dropped_", "Output of ended attempts that was not stored.", registry)
        ProcessCollector(registry=registry)

    def _begin(self, queue: str) -> _OfQueue:
        return _OfQueue(self._waits.labels(queue), self._runs.labels(queue))

    def observe(self, claim: Claim, end: End, volume: Volume) -> None:
        """An attempt is over."""
        queue = claim.spec.queue
        seen = self._queues.get(queue)
        if seen is None:  # the job was accepted when config still named it
            seen = self._queues[queue] = self._begin(queue)
        if end.started is not None and claim.ready is not None:
            # The wall clock may have been set back between the two.
            seen.waited.observe(max(0, end.started - claim.ready) / 1000)
        if end.duration is not None:
            seen.ran.observe(end.duration)
        _add(self._stored, volume.stdout_bytes, volume.stderr_bytes)
        _add(self._dropped, volume.stdout_dropped, volume.stderr_dropped)

    async def render(self, sources: MetricInputs, front: FrontFigures, *, openmetrics: bool) -> bytes:
        """All figures as of now, as OpenMetrics 1.0.0 or in Prometheus' own text format 0.0.4.

        Raises:
            StoreUnavailable: the history cannot be read.
        """
        queues = await sources.store.queues()
        page = _Page(self._registry, [*_standing(sources, queues), *_of_the_front(front)])
        return bytes(generate_openmetrics(page)) if openmetrics else generate_latest(page)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Page:
    """One answer: two that are made at the same time do not mix."""

    observed: CollectorRegistry
    standing: list[Metric]

    def collect(self) -> Iterator[Metric]:
        yield from self.standing
        yield from self.observed.collect()


def _standing(sources: MetricInputs, queues: QueueOverview) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "shellrunner_build",
        "The program's version, and Python's.",
        {"version": __version__, "python": platform.python_version()},
    )
    yield _jobs(sources, queues.queues)
    yield _ends(sources.store, queues.queues)
    yield from _of_queues(queues)
    yield from _of_the_history(sources)
    yield _gauge("shellrunner_places", "How many commands may run at once.", {(): sources.places})
    yield _gauge(
        "shellrunner_keepers",
        "KeeperPool that have a job whose end is not recorded yet, and those that wait for one.",
        {("busy",): sources.supervisor.running, ("idle",): sources.supervisor.idle},
        "state",
    )


def _of_the_front(front: FrontFigures) -> Iterator[Metric]:
    yield _gauge("shellrunner_connections", "Open connections.", {(): front.connections})
    yield _by(_counter, "shellrunner_connections_cut_total", "Connections that were cut.", front.cut, "reason")
    yield _by(_counter, "shellrunner_problems_total", "Answers that were problems.", front.problems, "problem")
    text = "Open streams: of one job's events, of its plain output, of all statuses."
    yield _by(_gauge, "shellrunner_followers", text, front.followers, "kind")


def _jobs(sources: MetricInputs, queues: Iterable[QueueState]) -> Metric:
    numbers = dict.fromkeys(State, 0)
    for queue in queues:
        numbers[State.WAITING] += queue.waiting
        numbers[State.QUEUED] += queue.queued
        numbers[State.RUNNING] += queue.running
    numbers[State.DONE] = sources.store.kept.jobs
    return _gauge("shellrunner_jobs", "Jobs in the history.", {(state,): n for state, n in numbers.items()}, "state")


def _ends(store: SqliteStore, queues: Iterable[QueueState]) -> Metric:
    names = {queue.name for queue in queues} | {name for name, _ in store.ends}
    ends: dict[Labels, float] = {
        (name, ending): store.ends[name, ending] for name in sorted(names) for ending in Ending
    }
    return _counter("shellrunner_jobs_ended_total", "Jobs that are done.", ends, "queue", "ending")


def _of_queues(queues: QueueOverview) -> Iterator[Metric]:
    now = now_ms()

    def of_each(name: str, text: str, figures: Iterable[float]) -> Metric:
        names = [(queue.name,) for queue in queues.queues]
        return _gauge(f"shellrunner_queue_{name}", text, dict(zip(names, figures, strict=True)), "queue")

    every = queues.queues
    yield of_each("depth", "Jobs that are queued.", [queue.queued for queue in every])
    yield of_each("waiting", "Jobs that may not start yet.", [queue.waiting for queue in every])
    yield of_each("running", "Jobs that run.", [queue.running for queue in every])
    limits = [float("inf") if queue.limit is None else queue.limit for queue in every]
    yield of_each("limit", "How many of its jobs may run at once.", limits)
    ages = [0 if queue.oldest is None else max(0, now - queue.oldest) / 1000 for queue in every]
    yield of_each("oldest_seconds", "Age of its oldest queued job, from when it was accepted; 0 without one.", ages)
    paused = [queue.paused for queue in every]
    yield of_each("paused", "1 if it starts nothing, by its own pause or the whole service's.", paused)


def _of_the_history(sources: MetricInputs) -> Iterator[Metric]:
    state_dir, store = sources.state_dir, sources.store
    yield _counter("shellrunner_history_commits_total", "Transactions committed to it.", {(): store.commits})
    tries: dict[Labels, float] = {(outcome,): store.tries[outcome] for outcome in Delivery}
    yield _counter("shellrunner_callback_tries_total", "Times that a result was sent.", tries, "outcome")
    database = sum(_size(state_dir / name) for name in ("history.db", "history.db-wal"))
    yield _gauge("shellrunner_history_bytes", "Size of history.db and its write-ahead log.", {(): database})
    yield _gauge("shellrunner_kept_output_bytes", "Output of done jobs that is kept.", {(): store.kept.bytes})
    disk = os.statvfs(state_dir)
    free = disk.f_bavail * disk.f_frsize
    yield _gauge("shellrunner_disk_free_bytes", "Room where the state directory is.", {(): free})


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
    except FileNotFoundError:  # the log is made at the first write
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
