"""The limit of audit lines for refused requests: token buckets, and a count of every line that was not written.

Owned by the audit log. One bucket for all clients, and one of a quarter of its size for each, so that none can use it
up alone. Must not know what a line says, or where it is written.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Final

MAX_SOURCES: Final = 1000  # remembered; what others are refused is counted together
_MAX_NAMED: Final = 20  # sources that `take_counts` names
_SHARE: Final = 4  # a client may have one line of so many
_MINUTE: Final = 60.0


class _LineBucket:
    """A token bucket that holds one minute's tokens."""

    __slots__ = ("_full_at", "_interval")

    def __init__(self, per_minute: int, now: float) -> None:
        self._interval = _MINUTE / max(1, per_minute)
        self._full_at = now

    def has_token(self, now: float) -> bool:
        return max(now, self._full_at) + self._interval - now <= _MINUTE + self._interval / 2

    def take(self, now: float) -> None:
        self._full_at = max(now, self._full_at) + self._interval

    def is_full(self, now: float) -> bool:
        return self._full_at <= now


@dataclass(slots=True)
class _Source:
    bucket: _LineBucket
    suppressed: Counter[str] = field(default_factory=Counter)  # by reason


class RefusalLimit:
    """Decides for each refused request whether it has a line of its own, and counts those that have none."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow so many lines a minute in all; None: any number. `clock` returns seconds."""
        self._per_minute, self._clock = per_minute, clock
        self._all = _LineBucket(per_minute or 1, clock())
        self._sources: OrderedDict[str, _Source] = OrderedDict()  # the one that was refused last stands last
        self._others: Counter[str] = Counter()  # what sources were refused that are not remembered
        self.total = 0  # lines that were not written, since the start

    def admits(self, source: str) -> bool:
        """Return whether a line about `source` may be written now, and take a token for it."""
        if self._per_minute is None:
            return True
        now, bucket = self._clock(), self._source(source).bucket
        if not (bucket.has_token(now) and self._all.has_token(now)):
            return False
        bucket.take(now)
        self._all.take(now)
        return True

    def count(self, source: str, reason: str) -> None:
        """Count a line that is not written."""
        self.total += 1
        self._source(source).suppressed[reason] += 1

    def take_counts(self) -> Generator[tuple[str, Counter[str]]]:
        """Yield the most refused sources, each with the number of its lines by reason; "" stands for all others.

        A count is forgotten when the next one is asked for: the last one, if the caller stops, is not.
        """
        counted = {name: source for name, source in self._sources.items() if source.suppressed}
        for number, name in enumerate(sorted(counted, key=lambda name: -counted[name].suppressed.total())):
            if number >= _MAX_NAMED:
                self._others += counted[name].suppressed
            else:
                yield name, counted[name].suppressed
            counted[name].suppressed = Counter()
        if self._others:
            yield "", self._others
            self._others = Counter()

    def _source(self, name: str) -> _Source:
        known = self._sources.get(name)
        if known is None:
            if len(self._sources) >= MAX_SOURCES:
                self._forget_one()
            share = -(-(self._per_minute or 1) // _SHARE)
            known = self._sources[name] = _Source(_LineBucket(share, self._clock()))
        self._sources.move_to_end(name)
        return known

    def _forget_one(self) -> None:
        _, forgotten = self._sources.popitem(last=False)
        self._others += forgotten.suppressed
