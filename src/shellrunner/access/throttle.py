"""How many wrong tokens are heard from one place: a token bucket for each, in bounded memory.

Owned by the door, which asks it about wrong tokens only: a right one is never slowed. Must not know tokens.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

BURST: Final = 10  # wrong tokens from one place at once
INTERVAL: Final = 6.0  # seconds after which it may send one more
MAX_SOURCES: Final = 10_000  # that are remembered; of more, the one that was quiet for longest is forgotten


class Throttle:
    """Counts wrong tokens by the place that they come from."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Have heard nothing yet."""
        self._clock = clock
        # When each place has its whole burst again; the one that was heard last stands last.
        self._whole: OrderedDict[str, float] = OrderedDict()

    def record_failure(self, source: str) -> int:
        """Hear a wrong token; 0, or after how many seconds the next one would be heard, as this one is not."""
        now, place = self._clock(), _place(source)
        whole = max(now, self._whole.get(place, now)) + INTERVAL
        early = whole - now - BURST * INTERVAL
        if early <= 0:
            self._whole[place] = whole
        self._whole.move_to_end(place)
        if len(self._whole) > MAX_SOURCES:
            self._whole.popitem(last=False)
        return max(0, math.ceil(early))

    def __len__(self) -> int:
        """How many places are remembered."""
        return len(self._whole)


def _place(source: str) -> str:
    """What counts as one place: who has one IPv6 address usually has all of its /64."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:  # `uid:1000`, `unix`
        return source
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address) >> 64 << 64))
