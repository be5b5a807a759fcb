"""Text search by trigrams (pg_trgm): which rows of `search` may contain a needle.

Used by lists. Texts and needles are folded in Python, as for SQLite, and `walk` compares the text itself: both
back ends find the same. Must not write.
"""

from typing import Final

from shellrunner.store.db import Db
from shellrunner.store.query.index_scans import IndexScan, ScanPlan

_GRAM_LENGTH: Final = 3  # characters
_MAX_RARE: Final = 20_000  # jobs that a needle may be in for its index to be read
_COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM search WHERE text LIKE ? LIMIT ?) AS found"
_ESCAPED: Final = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_"})


def plan(db: Db, needle: str) -> ScanPlan | None:
    """Return the plan that finds every job whose folded text may contain the folded needle; None: any job may."""
    if "\0" in needle:  # no command contains it
        return ()
    if len(needle) < _GRAM_LENGTH:
        return None
    pattern = f"%{needle.translate(_ESCAPED)}%"
    ((count,),) = db.execute(_COUNT, (pattern, _MAX_RARE)).fetchall()
    if count >= _MAX_RARE:  # found soon enough by any order
        return None
    not_indexed = IndexScan("search", "text IS NULL", (), id="job")
    return IndexScan("search", "text LIKE ?", (pattern,), id="job"), not_indexed


def plan_without_index(_db: Db, _needle: str) -> ScanPlan | None:
    """Return that any job may contain it: the extension pg_trgm is not there."""
    return None
