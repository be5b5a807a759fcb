"""Wall-clock time: milliseconds since the epoch, and RFC 3339 in both directions.

Used by every package but the keeper, which stays within its own. Must not know what happened at a time.
"""

import re
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Final

from shellrunner import ascii_text

# The only readings of these clocks; tests replace them in a server of their own.
_wall_ns = time.time_ns
_boot_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)

Millis = int  # milliseconds since 1970-01-01T00:00:00Z

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def now_ms() -> Millis:
    """Return the current time."""
    return _wall_ns() // 1_000_000


def boot_ms() -> Millis:
    """Return the milliseconds since the host was booted, also while it was suspended. Nobody can set this clock."""
    return _boot_ns() // 1_000_000


def format_rfc3339(moment: Millis) -> str:
    """Format a time as `2016-08-19T15:31:42.201Z`: UTC, with milliseconds."""
    seconds, millis = divmod(moment, 1000)
    return f"{_format_second(seconds)}.{millis:03}Z"


def parse_rfc3339(text: str) -> Millis:
    """Parse a time with its offset from UTC; a fraction of a millisecond is rounded up.

    Rounded up, so that nothing starts before the time that was asked for, and so that a bound stays on its side.

    Raises:
        ValueError: `text` is not a date-time of RFC 3339 (section 5.6), or is outside the years 1 to 9999.
    """
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    try:
        moment = datetime.fromisoformat(ascii_text.upper(text)).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"outside the years 1 to 9999: {text!r}") from error
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


@lru_cache(256)
def _format_second(seconds: int) -> str:
    """Format the whole second; cached, because lists and logs repeat the same few."""
    t = time.gmtime(seconds)
    return f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
