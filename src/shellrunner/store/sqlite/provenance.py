"""Provenance: whether this history is the one that was open here last, or a copy, or restored from a backup.

Used by `opening`, on the writing connection, before anything runs. What a copied or restored history says about the
present may be wrong: the original may still run its jobs, or they have ended since. So it is held: what it calls
running is `lost`, and nothing is started, sent or removed until an admin resumes.

    opened in another home                                             -> a copy
    a slot is a copy (its keeper lives, and does not hold its lock)    -> a copy
    history.db is another file                                         -> restored
    mark or slot of a later generation                                 -> restored
    slot or file of a job that was not started, as far as is known     -> restored
    anything else, also a directory that was moved, and a reboot       -> as it was
"""

import sqlite3
from typing import Final, NamedTuple

from shellrunner.clock import now_ms
from shellrunner.model import End, Ending, State, Volume
from shellrunner.store import rows
from shellrunner.store.columns import ClaimRow
from shellrunner.store.output import Head
from shellrunner.store.state_files.home import Home
from shellrunner.store.state_files.traces import Traces
from shellrunner.store.units import lifecycle, queue_pauses

_UNDONE: Final = "SELECT id, attempt, state, token FROM jobs INDEXED BY jobs_undone WHERE state != 'done'"
_LAST_ID: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'jobs'"
_SET: Final = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


class _Undone(NamedTuple):
    """A job that is not done, as far as this history knows."""

    job: int
    attempt: int
    state: str
    token: str | None

    def lacks(self, attempt: int, token: str | None) -> bool:
        """Return whether an attempt that was started is not known to be; without a token, a running job has all."""
        if attempt < self.attempt:
            return False
        return self.state != State.RUNNING or (token is not None and token != self.token)


class Doubt(NamedTuple):
    """Why this history may not be as things are now."""

    reason: str


def examine(
    db: sqlite3.Connection, history: str, home: Home | None, traces: Traces, *, replaced: bool = False
) -> Doubt | None:
    """Return why the history is not the one that was open here last; None if it is.

    `replaced`: its file is another one than then, or lacks what that one had.
    """
    if doubt := _copy(db, home, traces):
        return doubt
    if traces.mark and traces.mark.history not in ("", history):
        return _restored(f"it replaces the history {traces.mark.history}")
    if replaced:
        return _restored("history.db was replaced")
    return _older(db, history, traces)


def _copy(db: sqlite3.Connection, home: Home | None, traces: Traces) -> Doubt | None:
    last_home = Home.from_text(read_meta(db, "home"))
    if home and last_home and not home.is_same(last_home):
        return _copied("it was last opened in another directory")
    copies = [slot.number for slot in traces.slots if slot.is_copy]
    return _copied(f"slot {copies[0]} is a copy, its keeper runs elsewhere") if copies else None


def _older(db: sqlite3.Connection, history: str, traces: Traces) -> Doubt | None:
    generation = int(read_meta(db, "generation"))
    own = [slot for slot in traces.slots if slot.history == history]
    latest = max([traces.mark.generation if traces.mark else 0, *(slot.generation for slot in own)])
    if latest > generation:
        return _restored(f"generation {latest} was in use, and this is generation {generation}")
    started: list[tuple[int, int, str | None]] = [(file.job, file.attempt, file.token) for file in traces.files]
    started += [(record.job, record.attempt, record.token) for slot in own for record in slot.records]
    newest, undone = last_id(db), {row[0]: _Undone._make(row) for row in db.execute(_UNDONE)}
    for job, attempt, token in started:
        if job > newest or (job in undone and undone[job].lacks(attempt, token)):
            return _restored(f"job {job} was started since")
    return None


def settle(db: sqlite3.Connection, home: Home | None, traces: Traces, doubt: Doubt | None) -> None:
    """Begin a new generation in this home; hold the history if there is a doubt. One transaction."""
    seen = [int(read_meta(db, "generation")), traces.mark.generation if traces.mark else 0]
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute(_SET, ("generation", str(max([*seen, *(slot.generation for slot in traces.slots)]) + 1)))
        if home:
            db.execute(_SET, ("home", home.to_text()))
        if doubt:
            _hold(db, traces, doubt)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.rollback()


def read_meta(db: sqlite3.Connection, key: str) -> str:
    """Return a value of `meta`; empty if it is missing."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row else ""


def last_id(db: sqlite3.Connection) -> int:
    """Return the largest job id that was given in this history."""
    row = db.execute(_LAST_ID).fetchone()
    return int(row[0]) if row else 0


def raise_ids(db: sqlite3.Connection, last: int) -> None:
    """Give no id up to `last`."""
    if last > last_id(db):
        db.execute("DELETE FROM sqlite_sequence WHERE name = 'jobs'")
        db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', ?)", (last,))


def _hold(db: sqlite3.Connection, traces: Traces, doubt: Doubt) -> None:
    raise_ids(db, traces.max_id())
    queue_pauses.hold(db, doubt.reason, now_ms())
    # No further attempt follows: the one that is lost may still run, or have succeeded.
    for row in map(ClaimRow._make, db.execute(rows.RUNNING).fetchall()):
        end = End(Ending.LOST, now_ms(), detail=f"{doubt.reason}; how it ended since is not known here")
        lifecycle.finish(db, row.id, row.token, end=end, volume=Volume(), head=Head())


def _copied(why: str) -> Doubt:
    return Doubt(f"the history was copied: {why}")


def _restored(why: str) -> Doubt:
    return Doubt(f"the history was restored from a backup: {why}")
