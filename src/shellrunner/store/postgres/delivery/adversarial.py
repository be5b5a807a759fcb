"""Delivery as bad as it may be: it loses, doubles and delays, and offers again what was claimed before.

For tests, which choose it in place of the engine that config names: the claim and the sweep have to make up for it.
Must not know claims.
"""

import random
from collections import deque
from collections.abc import Sequence
from typing import Final

from shellrunner.store.db import Db
from shellrunner.store.postgres.delivery import Delivered, QueuedJob
from shellrunner.store.postgres.delivery.pgqueuer_engine import PgqueuerDelivery
from shellrunner.store.queues import Line

_DELAY: Final = "UPDATE pgqueuer SET execute_after = now() + make_interval(secs => ?) WHERE payload = ANY(?::bytea[])"
_REMEMBERED: Final = 200  # jobs that may be offered again
_NO_HANDLE: Final = 0  # pgqueuer's begin with 1


class AdversarialDelivery:
    """pgqueuer's table, used badly. Shares are of the jobs that are enqueued, and of the answers to `dequeue`."""

    def __init__(
        self, seed: int | None = None, *, lost: float = 0.2, doubled: float = 0.2, delayed: float = 0.2,
        max_delay: float = 30.0,
    ) -> None:  # fmt: skip
        self._chance = random.Random(seed)  # noqa: S311  not a secret
        self._lost, self._doubled, self._delayed, self._max_delay = lost, doubled, delayed, max_delay
        self._engine = PgqueuerDelivery()
        self._claimed: deque[int] = deque(maxlen=_REMEMBERED)

    def enqueue(self, db: Db, jobs: Sequence[QueuedJob]) -> None:
        """Offer most of the jobs, some twice, some later."""
        kept = [job for job in jobs if self._chance.random() >= self._lost]
        twice = [job for job in kept if self._chance.random() < self._doubled]
        if kept:
            self._engine.enqueue(db, [*kept, *twice])
        late = [str(job.job_id).encode() for job in kept if self._chance.random() < self._delayed]
        if late:
            db.execute(_DELAY, (self._chance.uniform(0, self._max_delay), late))

    def dequeue(self, db: Db, lines: Sequence[Line], limit: int) -> Sequence[Delivered]:
        """Offer jobs, some of which were claimed long ago."""
        offers = [*self._engine.dequeue(db, lines, limit)]
        if offers and self._claimed and self._chance.random() < self._doubled:
            self._engine.settle(db, offers[-1:])  # which is lost so
            offers[-1:] = [Delivered(self._chance.choice(self._claimed), _NO_HANDLE)]
        return offers

    def settle(self, db: Db, delivered: Sequence[Delivered]) -> None:
        """Forget them, but remember their ids."""
        self._claimed.extend(each.job_id for each in delivered)
        self._engine.settle(db, delivered)

    def forget_unclaimable(self, db: Db, lines: Sequence[Line]) -> None:
        """Forget them, as it should."""
        self._engine.forget_unclaimable(db, lines)

    def find_lost(self, db: Db, older_than: int) -> Sequence[QueuedJob]:
        """Return what is missing, as it should."""
        return self._engine.find_lost(db, older_than)

    def redeliver(self, db: Db, lost: Sequence[QueuedJob]) -> None:
        """Offer it again."""
        self._engine.redeliver(db, lost)
