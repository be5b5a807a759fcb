"""Rate limit for wrong tokens: a token bucket for each source address, in bounded memory.

Owned by the authenticator, which asks for wrong tokens only, so that valid ones are never delayed. Must not know
tokens.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

BURST: Final = 10  # wrong tokens from one source at once
INTERVAL: Final = 6.0  # seconds after which a source may send one more
MAX_SOURCES: Final = 10_000  # remembered; beyond that, the one without failures for longest is forgotten


class Throttle:
    """Counts wrong tokens by source."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without any; `clock` returns seconds."""
        self._clock = clock
        # When each source has its whole burst again; the one that failed last stands last.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def record_failure(self, source: str) -> int:
        """Record a wrong token from an address or `uid:N`; return 0, or the seconds to wait if there were too many.

        A failure beyond the limit does not count, so that `wait and retry` always succeeds in time.
        """
        now, key = self._clock(), source_key(source)
        full_at = max(now, self._full_at.get(key, now)) + INTERVAL
        wait = full_at - now - BURST * INTERVAL
        if wait <= 0:
            self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > MAX_SOURCES:
            self._full_at.popitem(last=False)
        return max(0, math.ceil(wait))

    def __len__(self) -> int:
        """Return how many sources are remembered."""
        return len(self._full_at)


def source_key(source: str) -> str:
    """Return what counts as one source: a client with one IPv6 address usually has all of its /64."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:  # `uid:1000`, `unix`
        return source
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address) >> 64 << 64))
