"""The clocks as the store sees them: observed at every write that depends on time, and kept in the history.

Owned by the store. `settle` is a part of units, so it can be run again: what is rolled back is done by the next one.
"""

from shellrunner.clock import Millis, boot_ms, now_ms
from shellrunner.store.components.seen_time import SeenTime
from shellrunner.store.db import Db
from shellrunner.store.sqlite.clock import clock_marks


class ClockWatch:
    """Notices when the wall clock is set, and keeps what depends on it right."""

    def __init__(self, seen: SeenTime) -> None:
        self._seen = seen
        self._is_limited = False

    def now(self) -> Millis:
        """Return the time with which ages are measured; on any thread."""
        return self._seen.now(now_ms(), boot_ms())

    @property
    def unconfirmed(self) -> Millis:
        """By how much the wall clock is ahead of the time that was seen to pass; negative: behind."""
        return self._seen.unconfirmed

    def settle(self, db: Db) -> Millis:
        """Observe the clocks, and shift delays if the wall clock was set; return by how much (a part of a unit)."""
        self._seen.observe(now_ms(), boot_ms())
        shift = self._seen.shift
        if shift:
            clock_marks.shift_delays(db, shift)
        if not self._is_limited:
            clock_marks.limit_delays(db, now_ms())
        return shift

    def settled(self, shift: Millis) -> None:
        """Note that a unit that has settled was committed."""
        self._is_limited = True
        self._seen.shift -= shift

    def write_mark(self, db: Db) -> None:
        """Keep the clocks in the history (a part of a unit)."""
        clock_marks.write(db, self._seen.mark)
