"""How many requests a token may send: a token bucket for each one that has `requests_per_second`.

Owned by the authenticator, which asks for every request that a token, or a session of it, was accepted for. Must not
know secrets or HTTP.
"""

import math
import time
from collections.abc import Callable, Iterable

from shellrunner.config import Token
from shellrunner.errors import TooManyRequests


class RequestRates:
    """The buckets of all tokens that have a limit."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without any; `clock` returns seconds."""
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def configure(self, tokens: Iterable[Token]) -> None:
        """Apply the limits of these tokens; a bucket whose limit is as before stays as full as it is."""
        before, self._buckets = self._buckets, {}
        for token in tokens:
            if token.requests_per_second is not None:
                rate, burst, known = token.requests_per_second, token.burst, before.get(token.hash)
                if known is None or (known.rate, known.burst) != (rate, burst):
                    known = _Bucket(rate, burst)
                self._buckets[token.hash] = known

    def take(self, token: Token) -> None:
        """Count a request of this token.

        Raises:
            TooManyRequests: it has sent too many; this one does not count.
        """
        bucket = self._buckets.get(token.hash)
        if bucket is not None and (wait := bucket.take(self._clock())) > 0:
            raise TooManyRequests(token.requests_per_second or 0, math.ceil(wait))


class _Bucket:
    """A bucket that holds `burst` requests and is refilled with `rate` of them per second."""

    __slots__ = ("_full_at", "burst", "rate")

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._full_at = -math.inf  # when it is full again, if nothing is taken until then

    def take(self, now: float) -> float:
        """Take one request out and return 0; if there is none, return the seconds until there will be one."""
        full_at = max(now, self._full_at) + 1 / self.rate
        wait = full_at - now - self.burst / self.rate
        if wait > 1e-9:  # what is left of the arithmetic is no reason to wait
            return wait
        self._full_at = full_at
        return 0
