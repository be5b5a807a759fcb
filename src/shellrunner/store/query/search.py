"""Text search in commands and names: folding, the trigram index, and the task that keeps the index up to date.

For `q` only; the SQL of the other filters is in `index_scans`. Owned by the store, which runs `Indexer`. The index
finds candidates: too many perhaps, but never too few, so that `listing` compares the text itself.

    needle   "srv/data"  → trigrams  srv rv/ v/d /da dat ata   the rarest of them are looked up:
    search   ata → 3 8 9 …    rv/ → 3 9 …                       jobs in all of them are candidates: 3, 9
    jobs     1 ………………………………… 900 │ 901 902                     beyond `searched` (in `meta`) every job is one
                      searched ──┘

The index trails behind, because writing its entries with each job would double what accepting a job costs. `Indexer`
adds them in small steps between other writes. FTS5 keeps no copy of the text here (`content = ''`).
"""

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db, UnitOfWork
from shellrunner.store.query.index_scans import IndexScan, ScanPlan

_GRAM_LENGTH: Final = 3  # characters
_MAX_GRAMS: Final = 12  # trigrams of a needle that are counted
_RARE_LIMIT: Final = 10_000  # jobs that a trigram may have to be rare
_BATCH_SIZE: Final = 200  # jobs indexed in one step, and
_BATCH_CHARACTERS: Final = 1 << 15  # characters after which it ends, so that other writes do not wait longer
_GATHER_DELAY: Final = 1.0  # seconds in which new jobs gather: indexing many at once costs less
_STEP_DELAY: Final = 0.01  # seconds between two steps, for other writes
_MERGE_THRESHOLD: Final = 5_000  # entries of deleted jobs, plus a quarter of all jobs, that start a merge
_MERGE_PAGES: Final = 16  # pages of the index that are merged in one step

# What is searched, in SQL and, as `text_of`, in Python: the command, with the name before it, if it has one.
TEXT: Final = "CASE WHEN name IS NULL THEN command ELSE name || char(10) || command END"
_NEXT: Final = f"SELECT id, {TEXT} FROM jobs WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  a constant
# Keys of `meta`, by their historical names: `searched` is the newest indexed job, `forgotten` counts the indexed jobs
# that were removed since the last merge.
INDEXED_UP_TO: Final = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'searched'"
_REMOVED: Final = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'forgotten'"
_COUNT_REMOVED: Final = """INSERT INTO meta VALUES ('forgotten', '1')
    ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"""
_SPAN: Final = "SELECT coalesce((SELECT max(id) FROM jobs) - (SELECT min(id) FROM jobs), 0)"
_ADD: Final = "INSERT INTO search (rowid, command) VALUES (?, ?)"
_COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM search WHERE search MATCH ? LIMIT ?)"


def fold(text: str) -> str:
    """Return the text as it is compared: canonical caseless matching (The Unicode Standard, D145).

    Composed at the end, so that a letter does not match the same letter with an accent: й does not contain и.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def plan(db: Db, needle: str) -> ScanPlan | None:
    """Return the plan that finds every job whose folded command may contain the folded needle; None: any job may.

    Not by a phrase query of FTS5: that compares the positions of all entries in all jobs that have them, and so takes
    longer with every job. The rarest trigrams alone give few candidates, and take as long as those are many.
    """
    if "\0" in needle:  # no command contains it, and FTS5 would read the needle up to there
        return ()
    if len(needle) < _GRAM_LENGTH:
        return None
    counts = sorted((_count(db, gram), gram) for gram in _sample_grams(needle))
    rare = [gram for count, gram in counts if count < _RARE_LIMIT][:3] or [counts[0][1]]
    match = " AND ".join(_quoted(gram) for gram in rare)
    not_indexed = IndexScan("jobs", "TRUE", (), above=_indexed_up_to(db))
    return IndexScan("search", "search MATCH ?", (match,), id="rowid"), not_indexed


def text_of(name: str | None, command: str) -> str:
    """Return what is searched of a job."""
    return command if name is None else f"{name}\n{command}"


def remove_job(db: Db, job_id: int, text: str) -> None:
    """Remove a job from the index, if it is there; `text` is what its row has."""
    if job_id <= _indexed_up_to(db):
        db.execute("INSERT INTO search (search, rowid, command) VALUES ('delete', ?, ?)", (job_id, fold(text)))
        db.execute(_COUNT_REMOVED)


def replace_job(db: Db, job_id: int, before: str, after: str) -> None:
    """Index another text of a job, if it is in the index."""
    if job_id <= _indexed_up_to(db):
        remove_job(db, job_id, before)
        db.execute(_ADD, (job_id, fold(after)))


def add_next_jobs(db: Db) -> bool:
    """Add the next few jobs to the index (a unit); return False if there were none."""
    added, characters = [], 0
    for job_id, text in db.execute(_NEXT, (_indexed_up_to(db), _BATCH_SIZE)):
        added.append((job_id, fold(text)))
        characters += len(text)
        if characters > _BATCH_CHARACTERS:
            break
    if added:
        db.executemany(_ADD, added)
        db.execute("UPDATE meta SET value = ? WHERE key = 'searched'", (str(added[-1][0]),))
    return bool(added)


def merge(db: Db, *, begun: bool) -> bool:
    """Merge a few pages of the index (a unit), or begin to once it is worth it; return False if all is merged.

    FTS5 keeps the entries of deleted jobs, with notes that they are dead, until both are merged. Every search reads
    over them, so a history under retention would be searched ever more slowly.
    """
    if not begun:
        (removed,) = db.execute(_REMOVED).fetchone() or (0,)
        (span,) = db.execute(_SPAN).fetchone()
        if removed < _MERGE_THRESHOLD + span // 4:
            return False
        db.execute("UPDATE meta SET value = '0' WHERE key = 'forgotten'")
    before = _total_changes(db)
    # fts5.html#the_merge_command: a negative number begins to merge everything; it is done once nothing changes.
    db.execute("INSERT INTO search (search, rank) VALUES ('merge', ?)", (_MERGE_PAGES if begun else -_MERGE_PAGES,))
    return not begun or _total_changes(db) - before >= 2


class Indexer:
    """Adds new jobs to the index soon after they were accepted; idle while there are none."""

    def __init__(self, run_write: Callable[[UnitOfWork[bool]], Awaitable[bool]]) -> None:
        """`run_write` runs a unit in a write transaction."""
        self._run_write = run_write
        self._wake = asyncio.Event()
        self._wake.set()  # jobs may be left from before

    def job_added(self) -> None:
        """Wake up for a new job."""
        self._wake.set()

    async def run(self) -> None:
        """Index new jobs, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_DELAY)
            self._wake.clear()
            try:
                await self._catch_up()
                begun = False
                while begun := await self._run_write(partial(merge, begun=begun)):
                    await self._catch_up()
            except StoreUnavailable:
                self._wake.set()  # retried after the delay; the writer has reported it already

    async def _catch_up(self) -> None:
        more = True
        while more:
            more = await self._run_write(add_next_jobs)
            await asyncio.sleep(_STEP_DELAY)


def _sample_grams(needle: str) -> set[str]:
    """Return trigrams from all over the needle: counting every one would take long for a long needle."""
    last = len(needle) - _GRAM_LENGTH
    starts = {last * number // (_MAX_GRAMS - 1) for number in range(_MAX_GRAMS)}
    return {needle[start : start + _GRAM_LENGTH] for start in starts}


def _count(db: Db, gram: str) -> int:
    (count,) = db.execute(_COUNT, (_quoted(gram), _RARE_LIMIT)).fetchone()
    return int(count)


def _quoted(gram: str) -> str:
    return '"' + gram.replace('"', '""') + '"'


def _indexed_up_to(db: Db) -> int:
    (job_id,) = db.execute(INDEXED_UP_TO).fetchone()
    return int(job_id)


def _total_changes(db: Db) -> int:
    (changes,) = db.execute("SELECT total_changes()").fetchone()
    return int(changes)
