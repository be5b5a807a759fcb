"""Seen time: how much time has passed as far as this service saw it pass, by the clock that nobody can set.

Ages are measured with it (retention, Idempotency-Keys), because what they end cannot be brought back. The wall clock
is compared with the boot clock (CLOCK_BOOTTIME, which counts while the host sleeps); both are kept in the history, so
that they are comparable over restarts of the service. Owned by the store. Must not know SQL, or what has an age.

    wall clock   12:00:00   12:00:05   +60 days   …            back       …
    boot clock        100        105        110   …
    seen time    12:00:00   12:00:05   12:00:10   one second each second, until the wall clock agrees again, or has
                                                  been steady for a day
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import Final, Self

from shellrunner.clock import Millis

_log = logging.getLogger(__name__)

_TOLERANCE: Final = 10_000  # milliseconds by which the clocks may differ between two readings: NTP corrects that much
_MAX_UNSEEN: Final = 3_600_000  # milliseconds for which a host may have been off, and its clock be believed at once
CONFIRMATION: Final = 24 * 3_600_000  # milliseconds of seen time after which a clock that was set is believed


@dataclass(frozen=True, slots=True)
class ClockMark:
    """Both clocks at one moment, the seen time, and for how long the wall clock has been steady since a doubt."""

    boot_id: str
    boot: Millis
    wall: Millis
    seen: Millis
    steady: Millis = 0

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a mark as `format` writes it; None if it is damaged."""
        try:
            mark = cls(**json.loads(text))
        except (ValueError, TypeError):
            return None
        numbers = (mark.boot, mark.wall, mark.seen, mark.steady)
        return mark if isinstance(mark.boot_id, str) and all(type(number) is int for number in numbers) else None

    def format(self) -> str:
        """Return the mark as text."""
        return json.dumps(asdict(self))


class SeenTime:
    """Follows the clocks. `shift` is by how much the wall clock was set since this was last set to 0."""

    def __init__(
        self, last: ClockMark | None, newest: Millis | None, boot_id: str, wall: Millis, boot: Millis
    ) -> None:
        """Go on from the last mark; without one, from the newest time in the history."""
        self.shift: Millis = 0
        if last is not None and last.boot_id == boot_id and last.boot <= boot:
            self._mark = last
            self.observe(wall, boot)
        else:
            before = last.seen if last is not None else min(wall, newest) if newest is not None else wall
            steady = last.steady if last is not None else 0
            self._mark = ClockMark(boot_id, boot, wall, self._after_boot(before, wall), steady)

    @staticmethod
    def _after_boot(before: Millis, wall: Millis) -> Millis:
        """Return the seen time after an unknown time during which the host was off."""
        unseen = wall - before
        if 0 <= unseen <= _MAX_UNSEEN:
            return wall
        _log.warning(
            "the clock differs from the time that was seen to pass; until it has been steady for a day, or agrees "
            "again, nothing is deleted because of the difference",
            extra={"seconds": unseen // 1000},
        )
        return before

    def agree(self, seen: Millis) -> None:
        """Follow that another host, with the same wall clock, has seen time pass up to here."""
        if self._mark.seen < seen <= self._mark.wall:
            self._mark = replace(self._mark, seen=seen)

    @property
    def mark(self) -> ClockMark:
        """The clocks when they were last observed."""
        return self._mark

    @property
    def unconfirmed(self) -> Millis:
        """By how much the wall clock was ahead of the seen time when it was last observed; negative: behind."""
        return self._mark.wall - self._mark.seen

    def observe(self, wall: Millis, boot: Millis) -> None:
        """Read the clocks: notice whether the wall clock was set since the last time."""
        last = self._mark
        passed = boot - last.boot
        jump = wall - last.wall - passed
        seen, steady = last.seen + passed, last.steady + passed
        if abs(jump) > _TOLERANCE:
            self.shift += jump
            steady = 0
            _log.warning(
                "the clock was set; until it has been steady for a day, or agrees with the time that was seen to "
                "pass, nothing is deleted because of the difference",
                extra={"seconds": round(jump / 1000), "unconfirmed_seconds": round((wall - seen) / 1000)},
            )
        if abs(wall - seen) <= _TOLERANCE:
            seen, steady = wall, 0
        elif steady >= CONFIRMATION:
            _log.warning(
                "the clock has been steady for a day and is believed", extra={"seconds": (wall - seen) // 1000}
            )
            seen, steady = wall, 0
        self._mark = ClockMark(last.boot_id, boot, wall, seen, steady)

    def now(self, wall: Millis, boot: Millis) -> Millis:
        """Return the time with which ages are measured: never later than either clock makes it."""
        return min(wall, self._mark.seen + max(boot - self._mark.boot, 0))
