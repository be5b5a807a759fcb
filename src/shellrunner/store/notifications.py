"""Bells: who wants to be told to look again, and the one ticker that sees running output grow.

Owned by the store, in this process only. Bells carry no data, so a lost, doubled or merged ring is harmless.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

_TICK: Final = 0.04  # seconds, so that with the look itself a new byte is noticed within 50 ms


class Subscription(Protocol):
    """Notifications about one topic. Subscribe first, then read, then wait: no change is missed."""

    async def wait(self) -> None:
        """Wait for the next notification since the last `wait` returned (may be spurious, is never missed)."""


class EventSubscription:
    """One watcher's bell."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Let `wait` return."""
        self._event.set()

    async def wait(self) -> None:
        """Return once it was rung since `wait` last returned."""
        await self._event.wait()
        self._event.clear()


class Notifications:
    """The bells of each matter (a job, the wishes)."""

    def __init__(self, fingerprint: Callable[[int], bytes | None]) -> None:
        """`fingerprint` gives bytes that differ whenever a job's output has grown; None if it is not running."""
        self._fingerprint = fingerprint
        self._bells: dict[Hashable, set[EventSubscription]] = {}
        self._seen: dict[int, bytes] = {}
        self._watched = asyncio.Event()

    @contextmanager
    def watch(self, matter: Hashable) -> Iterator[EventSubscription]:
        """A bell that rings for this matter until the block is left."""
        bell = EventSubscription()
        self._bells.setdefault(matter, set()).add(bell)
        self._watched.set()
        try:
            yield bell
        finally:
            self._bells[matter].remove(bell)
            if not self._bells[matter]:
                del self._bells[matter]
                self._seen.pop(matter, None)  # type: ignore[call-overload]

    def ring(self, matter: Hashable) -> None:
        """Tell all who watch this matter to look again."""
        for bell in self._bells.get(matter, ()):
            bell.ring()

    async def work(self) -> None:
        """Look at the sizes of watched running jobs, for as long as anybody watches one."""
        while True:
            await self._watched.wait()
            await asyncio.sleep(_TICK)
            jobs = [matter for matter in self._bells if isinstance(matter, int)]
            for job in jobs:
                self._look(job)
            if not jobs:
                self._watched.clear()

    def _look(self, job: int) -> None:
        seen = self._fingerprint(job)
        if seen is None:
            self._seen.pop(job, None)
        elif seen != self._seen.get(job):
            # Also at the first look: what came between the watcher's own look and this one is in it.
            self._seen[job] = seen
            self.ring(job)
