"""The clock of the database, which all nodes share: due times and ages follow it, whatever the node's own clock says.

Owned by the store. Read with each lease; in between the node's clock that nobody can set counts on.
"""

from shellrunner.clock import Millis, boot_ms, now_ms
from shellrunner.store.db import Db

READ = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


class DatabaseClock:
    """The time of the database, as far as it is known; before it was read, the node's own."""

    def __init__(self) -> None:
        self._read: Millis | None = None
        self._at: Millis = 0

    def now(self) -> Millis:
        """Return the time; on any thread."""
        return now_ms() if self._read is None else self._read + boot_ms() - self._at

    def read(self, db: Db) -> Millis:
        """Read the clock (a part of a unit)."""
        ((moment,),) = db.execute(READ).fetchall()
        self.set(moment)
        return int(moment)

    def set(self, moment: Millis) -> None:
        """Count on from this time of the database."""
        self._read, self._at = int(moment), boot_ms()

    @property
    def difference(self) -> Millis:
        """By how much the node's clock is ahead of the database's; negative: behind."""
        return now_ms() - self.now()
