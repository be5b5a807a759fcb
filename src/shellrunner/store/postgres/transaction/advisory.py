"""Advisory locks: what several nodes decide together, in memory of the server and until the end of the transaction.

They are taken in the order in which they stand here, then rows of jobs by their ids. Where two transactions meet in
another order, the server ends one of them, which is run again.

    CLAIMS      shared by each transaction that claims; exclusive: nothing is claimed until this commits, and what is
                claimed later sees it (pauses, limits, epochs, the removal of a queue)
    ADMISSION   shared by each transaction that adds jobs while there is much room; exclusive: the count is exact
    a queue     exclusive: how many of its jobs run is exact
    a submitter the same
    a node      shared by each transaction in which it claims; exclusive: what it has sent before is over, be it by an
                earlier server of its name or on a connection that was lost
"""

import zlib
from collections.abc import Iterable
from typing import Final

from shellrunner.store.db import Db

# Of the first key; the second is the number below, or a hash. The function `read_situation` has it, too.
_SPACE: Final = 0x5368
CLAIMS: Final = 1
ADMISSION: Final = 2
RETENTION: Final = 3
DUE: Final = 4
JUDGING: Final = 5
_QUEUE: Final = 0x5369
_SUBMITTER: Final = 0x536A
_NODE: Final = 0x536B

_SHARED: Final = "SELECT pg_advisory_xact_lock_shared(?::int, ?::int)"
_EXCLUSIVE: Final = "SELECT pg_advisory_xact_lock(?::int, ?::int)"
_TRY: Final = "SELECT pg_try_advisory_xact_lock(?::int, ?::int)"


def share(db: Db, number: int) -> None:
    """Wait for the lock, and share it with others that do."""
    db.execute(_SHARED, (_SPACE, number))


def lock(db: Db, number: int) -> None:
    """Wait until nobody else has the lock."""
    db.execute(_EXCLUSIVE, (_SPACE, number))


def lock_node(db: Db, node: str) -> None:
    """Wait until no transaction is under way in which the node claims."""
    db.execute("SELECT pg_advisory_xact_lock(?::int, hashtext(?))", (_NODE, node))


def try_lock(db: Db, number: int) -> bool:
    """Take the lock if nobody else has it."""
    ((taken,),) = db.execute(_TRY, (_SPACE, number)).fetchall()
    return bool(taken)


def lock_lines(db: Db, queues: Iterable[str], submitters: Iterable[str]) -> None:
    """Wait for the locks of these queues, and of these submitters."""
    for queue in sorted(queues):
        db.execute(_EXCLUSIVE, (_QUEUE, _hash(queue)))
    for submitter in sorted(submitters):
        db.execute(_EXCLUSIVE, (_SUBMITTER, _hash(submitter)))


def _hash(name: str) -> int:
    return zlib.crc32(name.encode()) - (1 << 31)  # two that are equal cost only time
