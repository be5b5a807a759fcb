"""Notifications: who wants to read again when something changes, and a poller that notices new output.

Owned by the store, in this process only. A notification carries no data, so a spurious, doubled or merged one does no
harm. Must not know what the subscribers do.
The second stage of output (the first: `keeper.recorder`): a new byte is noticed by polling; next, the feeds' shared
read (`web.feeds`).
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final, Protocol

from shellrunner.model import State
from shellrunner.store.transition import Transition

_POLL_INTERVAL: Final = 0.04  # seconds; with the read itself, a new byte is noticed within 50 ms


class Subscription(Protocol):
    """Notifications about one topic. Subscribe first, then read, then wait: no change is missed."""

    async def wait(self) -> None:
        """Wait for the next notification since the last `wait` returned (may be spurious, is never missed)."""


class Topic(StrEnum):
    """What one can subscribe to besides a single job, whose topic is its id."""

    ALL_JOBS = "all jobs"
    CANCEL_REQUESTS = "cancel requests"
    CALLBACKS = "callbacks"


class EventSubscription:
    """A `Subscription` of this process."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Let `wait` return."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for the next notification since the last `wait` returned."""
        await self._event.wait()
        self._event.clear()


class Notifications:
    """The subscriptions to each topic."""

    def __init__(self, fingerprint: Callable[[int], bytes | None]) -> None:
        """`fingerprint` returns bytes that differ whenever a job's output has grown; None if it is not running."""
        self._fingerprint = fingerprint
        self._subscriptions: dict[Hashable, set[EventSubscription]] = {}
        self._fingerprints: dict[int, bytes] = {}
        self._subscribed = asyncio.Event()

    @contextmanager
    def subscribe(self, topic: Hashable) -> Iterator[EventSubscription]:
        """Subscribe to the topic until the block is left."""
        subscription = EventSubscription()
        self._subscriptions.setdefault(topic, set()).add(subscription)
        self._subscribed.set()
        try:
            yield subscription
        finally:
            self._subscriptions[topic].remove(subscription)
            if not self._subscriptions[topic]:
                del self._subscriptions[topic]
                self._fingerprints.pop(topic, None)  # type: ignore[call-overload]

    def publish(self, transition: Transition) -> None:
        """Notify the subscribers of every topic that a committed transition concerns.

        The one place where transitions become notifications. Here they are delivered at once; a back end that is
        shared by several hosts would send them with the commit.
        """
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
        for subscription in self._subscriptions.get(topic, ()):
            subscription.notify()

    async def run(self) -> None:
        """Poll the output of running jobs, as long as there are subscriptions to them."""
        while True:
            await self._subscribed.wait()
            await asyncio.sleep(_POLL_INTERVAL)
            job_ids = [topic for topic in self._subscriptions if isinstance(topic, int)]
            for job_id in job_ids:
                self._poll(job_id)
            if not job_ids:
                self._subscribed.clear()

    def _poll(self, job_id: int) -> None:
        fingerprint = self._fingerprint(job_id)
        if fingerprint is None:
            self._fingerprints.pop(job_id, None)
        elif fingerprint != self._fingerprints.get(job_id):
            # Also at the first poll: output that came between the subscriber's read and this poll is in it.
            self._fingerprints[job_id] = fingerprint
            self.notify(job_id)
