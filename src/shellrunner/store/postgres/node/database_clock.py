"""The clock of the database, which all nodes share: due times and ages follow it, whatever the node's own clock says.

Owned by the store. Read with each lease; in between the node's clock that nobody can set counts on.
"""

import threading
from typing import Final

from shellrunner.clock import Millis, boot_ms, now_ms

_MAX_AGE: Final = 60_000  # milliseconds after which a later reading counts, even if it took longer


class DatabaseClock:
    """The time of the database, as far as it is known, else the node's own. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset: Millis | None = None  # of the database's clock from the boot clock
        self._error: Millis = 0  # by which the offset may be wrong
        self._read_at: Millis = 0

    def now(self) -> Millis:
        """Return the time."""
        offset = self._offset
        return now_ms() if offset is None else offset + boot_ms()

    def observe(self, moment: Millis, before: Millis, after: Millis) -> None:
        """Note that the database's clock was at `moment` at some time between two readings of the boot clock."""
        error = (after - before) // 2
        with self._lock:
            if self._offset is None or error <= self._error or before - self._read_at > _MAX_AGE:
                self._offset = moment - (before + after) // 2
                self._error, self._read_at = error, before

    @property
    def difference(self) -> Millis:
        """By how much the node's clock is ahead of the database's; negative: behind."""
        return now_ms() - self.now()
