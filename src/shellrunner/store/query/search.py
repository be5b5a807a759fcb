"""Search in commands: how text is folded, the trigram index, and the task that keeps it up with what was added.

Owned by the store, which runs `Indexer.work` as a task. The index trails behind: jobs up to `searched` (in `meta`)
are in it, later ones are looked at one by one. It finds too much, never too little: whoever asks looks at the text.
"""

import asyncio
import sqlite3
import unicodedata
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.query.index_scans import IndexScan, ScanPlan
from shellrunner.store.sqlite.batch_queue import UnitOfWork

_GRAM: Final = 3  # characters of an entry of the index
_PROBED: Final = 12  # entries of a needle that are looked at
_RARE: Final = 10_000  # jobs that an entry may have to be rare
_ROWS: Final = 200  # jobs taken in at once, and
_TEXT: Final = 1 << 15  # characters after which it is enough: no other write waits for more
_PAUSE: Final = 1.0  # seconds in which new ones gather: many at once cost less
_BREATH: Final = 0.01  # seconds between two steps, for other writes
_DEAD: Final = 5_000  # entries of deleted jobs beside a quarter of all, after which the index is tidied
_PAGES: Final = 16  # of the index that are merged in one step

_NEXT: Final = "SELECT id, command FROM jobs WHERE id > ? ORDER BY id LIMIT ?"
_SEARCHED: Final = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'searched'"
_FORGOTTEN: Final = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'forgotten'"
_ONE_MORE: Final = """INSERT INTO meta VALUES ('forgotten', '1')
    ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"""
_SPAN: Final = "SELECT coalesce((SELECT max(id) FROM jobs) - (SELECT min(id) FROM jobs), 0)"
_COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM search WHERE search MATCH ? LIMIT ?)"


def fold(text: str) -> str:
    """The text as it is compared: canonical caseless matching (The Unicode Standard, D145).

    Composed at the end, so that a letter is not found in the same letter with an accent: и is no part of й.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def source(db: sqlite3.Connection, needle: str) -> ScanPlan | None:
    """Where the jobs are whose folded command may have the folded needle in it; None: anywhere.

    An index of phrases would compare the places of all entries in all jobs that have them, which takes the longer the
    more jobs there are. The rarest entries alone bring a few jobs to look at, and take no longer than those are many.
    """
    if "\0" in needle:  # in no command; and FTS5 reads to it
        return ()
    if len(needle) < _GRAM:
        return None
    counts = sorted((_count(db, gram), gram) for gram in _some_grams(needle))
    rare = [gram for count, gram in counts if count < _RARE][:3] or [counts[0][1]]
    match = " AND ".join(_quoted(gram) for gram in rare)
    newer = IndexScan("jobs", "TRUE", (), above=_searched(db))
    return IndexScan("search", "search MATCH ?", (match,), id="rowid"), newer


def forget(db: sqlite3.Connection, job_id: int, command: str) -> None:
    """Take a job out of the index, if it is in it; `command` as its row has it."""
    if job_id <= _searched(db):
        db.execute("INSERT INTO search (search, rowid, command) VALUES ('delete', ?, ?)", (job_id, fold(command)))
        db.execute(_ONE_MORE)


def take_in(db: sqlite3.Connection) -> bool:
    """Take in the next few jobs (a unit for the writer); false if there was none."""
    taken, size = [], 0
    for job_id, command in db.execute(_NEXT, (_searched(db), _ROWS)):
        taken.append((job_id, fold(command)))
        size += len(command)
        if size > _TEXT:
            break
    if taken:
        db.executemany("INSERT INTO search (rowid, command) VALUES (?, ?)", taken)
        db.execute("UPDATE meta SET value = ? WHERE key = 'searched'", (str(taken[-1][0]),))
    return bool(taken)


def tidy(db: sqlite3.Connection, *, begun: bool) -> bool:
    """Merge a few pages of the index (a unit for the writer); false if it is tidy.

    FTS5 keeps the entries of what was deleted, beside notes that they are dead, until both are merged. Every search
    reads over them, so that without this a history under retention would be searched ever more slowly.
    """
    if not begun:
        (dead,) = db.execute(_FORGOTTEN).fetchone() or (0,)
        (span,) = db.execute(_SPAN).fetchone()
        if dead < _DEAD + span // 4:
            return False
        db.execute("UPDATE meta SET value = '0' WHERE key = 'forgotten'")
    before = db.total_changes
    # fts5.html#the_merge_command: below zero it begins to merge all there is; it is over once nothing changes.
    db.execute("INSERT INTO search (search, rank) VALUES ('merge', ?)", (_PAGES if begun else -_PAGES,))
    return not begun or db.total_changes - before >= 2


class Indexer:
    """Takes new jobs in, soon after they came, and does nothing while there are none."""

    def __init__(self, write: Callable[[UnitOfWork[bool]], Awaitable[bool]]) -> None:
        """`write` has a unit done by the writer."""
        self._write = write
        self._wake = asyncio.Event()
        self._wake.set()  # there may be some from before

    def came(self) -> None:
        """There is a new job."""
        self._wake.set()

    async def work(self) -> None:
        """Take in whatever comes."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_PAUSE)
            self._wake.clear()
            try:
                await self._catch_up()
                begun = False
                while begun := await self._write(partial(tidy, begun=begun)):
                    await self._catch_up()
            except StoreUnavailable:
                self._wake.set()  # the writer has told whoever asked; here it is tried again after the pause

    async def _catch_up(self) -> None:
        more = True
        while more:
            more = await self._write(take_in)
            await asyncio.sleep(_BREATH)


def _some_grams(needle: str) -> set[str]:
    """Entries from all over the needle: looking at each would take long for a long one."""
    last = len(needle) - _GRAM
    places = {last * number // (_PROBED - 1) for number in range(_PROBED)}
    return {needle[place : place + _GRAM] for place in places}


def _count(db: sqlite3.Connection, gram: str) -> int:
    (count,) = db.execute(_COUNT, (_quoted(gram), _RARE)).fetchone()
    return int(count)


def _quoted(gram: str) -> str:
    return '"' + gram.replace('"', '""') + '"'


def _searched(db: sqlite3.Connection) -> int:
    (searched,) = db.execute(_SEARCHED).fetchone()
    return int(searched)
