"""Claims that are not settled: of jobs that were declared lost, or are deleted since, and that may still run.

Units of the store. A host that returns sees such a claim to its end like any other one, and what it reports settles
it; a request to cancel is noted here, as the job itself is done, or gone. Must not know why a job was lost.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from shellrunner.model import Claim
from shellrunner.store import rows
from shellrunner.store.columns import ClaimRow, columns
from shellrunner.store.db import Db
from shellrunner.store.output.location import SlotOwner

# ruff: noqa: S608  every statement here is put together from constants of this program

NOBODY: Final = ""  # stands for the host of a claim whose name another server has taken
_ADD: Final = f"""INSERT INTO unsettled ({columns(ClaimRow)}, host)
    SELECT {columns(ClaimRow)}, coalesce(?::text, host, '{NOBODY}') FROM jobs
    WHERE id = ANY(?) AND state = 'running' ON CONFLICT DO NOTHING"""
_ADD_FORGOTTEN: Final = f"""INSERT INTO unsettled ({columns(ClaimRow)}, host)
    SELECT id, queue, submitter, ?, ?, spec, created, 0, ?, created, due, run_as, kill_only, ? FROM jobs
    WHERE id = ? ON CONFLICT DO NOTHING"""
_REMEMBER: Final = "UPDATE jobs SET token = ?, host = ? WHERE id = ? AND ending = 'lost'"
_SETTLE: Final = "DELETE FROM unsettled WHERE token = ?"
_CANCEL: Final = """UPDATE unsettled SET cancelling = 1, kill_only = greatest(kill_only, ?) WHERE id = ANY(?)
    RETURNING host"""
_OF_HOST: Final = f"SELECT {columns(ClaimRow)} FROM unsettled WHERE host = ? ORDER BY id"
_CANCELLING: Final = f"""SELECT {columns(ClaimRow)} FROM unsettled WHERE host IN (?, '{NOBODY}') AND cancelling != 0
    ORDER BY id"""
_COUNT: Final = "SELECT host, count(*) FROM unsettled GROUP BY host"


def add(db: Db, job_ids: Sequence[int], host: str | None = None) -> None:
    """Note the claims of these running jobs, which are declared lost in this transaction.

    `host`: whose claims they are, if not that of the job.
    """
    db.execute(_ADD, (host, list(job_ids)))


def add_forgotten(db: Db, job_id: int, owner: SlotOwner, host: str) -> None:
    """Note a claim that the history has forgotten: the job, lost now, was started on this host by this owner."""
    db.execute(_ADD_FORGOTTEN, (owner.token, owner.keeper, owner.attempt, host, job_id))
    db.execute(_REMEMBER, (owner.token, host, job_id))


def settle(db: Db, token: str) -> bool:
    """Note that the host has reported what it saw; return whether the claim was not settled yet."""
    return db.execute(_SETTLE, (token,)).rowcount > 0


def request_cancel(db: Db, job_ids: Iterable[int], *, kill_only: bool) -> Sequence[str]:
    """Have commands of these jobs be ended that still run; return the hosts on which they may.

    `kill_only`: they get no TERM.
    """
    return [host for (host,) in db.execute(_CANCEL, (int(kill_only), list(job_ids))).fetchall()]


def of_host(db: Db, host: str) -> list[Claim]:
    """Return the claims of a host, those of the oldest jobs first, without their secrets."""
    return [rows.readable_claim(ClaimRow._make(row)) for row in db.execute(_OF_HOST, (host,)).fetchall()]


def cancelling(db: Db, host: str) -> list[Claim]:
    """Return those that may be of this host, and whose commands are to be ended."""
    return [rows.readable_claim(ClaimRow._make(row)) for row in db.execute(_CANCELLING, (host,)).fetchall()]


def count(db: Db) -> dict[str, int]:
    """Return how many there are, by host."""
    return dict(db.execute(_COUNT).fetchall())
