"""Notifications: who wants to read again when something changes, and how new output is noticed.

Owned by the store, in this process only. A notification carries no data, so a spurious, doubled or merged one does no
harm. Must not know what the subscribers do.
The second stage of output (the first: `keeper.recorder`): a write to a job's slot is noticed at once while somebody
waits for it, and only then: output costs nothing here while its readers are busy. Next, the feeds' shared read
(`web.feeds`).
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from functools import partial
from typing import Final, Protocol

from shellrunner.model import State
from shellrunner.store.transition import Transition

_POLL_INTERVAL: Final = 0.04  # seconds between looks at output whose growth is not reported


class Subscription(Protocol):
    """Notifications about one topic. Subscribe first, then read, then wait: no change is missed."""

    async def wait(self) -> None:
        """Wait for the next notification since the last `wait` returned (may be spurious, is never missed)."""


class Topic(StrEnum):
    """What one can subscribe to besides a single job, whose topic is its id."""

    ALL_JOBS = "all jobs"
    CANCEL_REQUESTS = "cancel requests"
    CALLBACKS = "callbacks"
    SESSIONS = "sessions"


class RunningOutput(Protocol):
    """The output of running jobs, as far as it must be known to notice that there is more."""

    def fingerprint(self, job_id: int) -> bytes | None:
        """Return bytes that differ whenever the job's output has grown; None if it is not running.

        They are empty if the output cannot be read now.
        """

    def watch_once(self, job_id: int, on_written: Callable[[], None]) -> bool:
        """Call `on_written` once at the next write of the running job; return false if that is not possible."""


class _TopicState:
    """How often a topic was notified, its subscriptions, and an event that wakes those of them that wait."""

    def __init__(self) -> None:
        self.count = self.subscriptions = 0
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake those that wait; who is busy costs nothing, and sees by the count that there was something."""
        self.count += 1
        self._event.set()
        self._event.clear()

    async def wait(self) -> None:
        """Wait for the next `notify`."""
        await self._event.wait()


class EventSubscription:
    """A `Subscription` of this process."""

    def __init__(self, topic: _TopicState, before_wait: Callable[[], None] | None = None) -> None:
        """`before_wait` is called whenever `wait` has nothing to return for."""
        self._topic, self._before_wait = topic, before_wait
        self._seen = topic.count

    async def wait(self) -> None:
        """Wait for the next notification since the last `wait` returned."""
        if self._before_wait is not None and self._seen == self._topic.count:
            self._before_wait()
        while self._seen == self._topic.count:
            await self._topic.wait()
        self._seen = self._topic.count


class Notifications:
    """The subscriptions to each topic."""

    def __init__(self, output: RunningOutput) -> None:
        self._output = output
        self._topics: dict[Hashable, _TopicState] = {}  # those with subscriptions
        self._fingerprints: dict[int, bytes] = {}  # of jobs with subscriptions, when they were notified last
        self._watched: set[int] = set()  # jobs whose next write is reported
        self._polled: set[int] = set()  # jobs for which that is not possible, now or ever
        self._must_poll = asyncio.Event()

    def subscribe(self, topic: Hashable) -> AbstractContextManager[EventSubscription]:
        """Subscribe to the topic until the block is left."""
        return self._subscribed(topic)

    def subscribe_to_output(self, job_id: int) -> AbstractContextManager[EventSubscription]:
        """Subscribe to a job and to its output until the block is left."""
        return self._subscribed(job_id, partial(self._await_output, job_id))

    @contextmanager
    def _subscribed(
        self, topic: Hashable, before_wait: Callable[[], None] | None = None
    ) -> Iterator[EventSubscription]:
        state = self._topics.setdefault(topic, _TopicState())
        state.subscriptions += 1
        try:
            yield EventSubscription(state, before_wait)
        finally:
            state.subscriptions -= 1
            if not state.subscriptions:
                del self._topics[topic]
                self._fingerprints.pop(topic, None)  # type: ignore[call-overload]

    def publish(self, transition: Transition) -> None:
        """Notify the subscribers of every topic that a committed transition concerns.

        The one place where transitions become notifications. Here they are delivered at once; a back end that is
        shared by several hosts would send them with the commit.
        """
        self._watched.discard(transition.job_id)  # another keeper may run it now, which writes another slot
        self.notify(transition.job_id)
        self.notify(Topic.ALL_JOBS)
        if transition.after is State.DONE and transition.has_dependents:
            self.notify(Topic.CALLBACKS)
        elif (
            transition.after is State.RUNNING and transition.before is State.RUNNING
        ):  # only a cancel request is this
            self.notify(Topic.CANCEL_REQUESTS)

    def notify(self, topic: Hashable) -> None:
        """Notify the subscribers of the topic."""
        if state := self._topics.get(topic):
            state.notify()

    def notify_all(self) -> None:
        """Notify the subscribers of every topic: it is not known what has changed."""
        for state in [*self._topics.values()]:
            state.notify()

    async def run(self) -> None:
        """Poll the output of running jobs where the system cannot report writes to it."""
        while True:
            await self._must_poll.wait()
            await asyncio.sleep(_POLL_INTERVAL)
            self._must_poll.clear()
            polled, self._polled = self._polled, set()
            for job_id in polled & self._topics.keys():
                self._await_output(job_id)

    def _await_output(self, job_id: int) -> None:
        """Notify the job's subscribers if there is new output since the last time, or else once there is."""
        if self._notify_if_grown(job_id):
            return
        # What cannot be read now may have been written already, and then no further write may come.
        is_known = bool(self._fingerprints[job_id])
        if is_known and job_id in self._watched:
            return
        if is_known and self._output.watch_once(job_id, partial(self._written, job_id)):
            self._watched.add(job_id)
            self._notify_if_grown(job_id)  # since it was looked at, and before it was watched
        else:
            self._polled.add(job_id)
            self._must_poll.set()

    def _written(self, job_id: int) -> None:
        self._watched.discard(job_id)
        # An index entry, say, is written before what counts it, so there may be nothing new yet.
        if job_id in self._topics:
            self._await_output(job_id)

    def _notify_if_grown(self, job_id: int) -> bool:
        """Notify the job's subscribers if there is new output; return false if it may still come unnoticed."""
        fingerprint = self._output.fingerprint(job_id)
        if fingerprint is None:
            self._fingerprints.pop(job_id, None)
            return True  # not running: that it begins to run is a transition
        if fingerprint == self._fingerprints.get(job_id):
            return False
        # Also the first time: output that came between the subscriber's read and this look is in it.
        self._fingerprints[job_id] = fingerprint
        self.notify(job_id)
        return True
