"""What concerns one node: the jobs that it runs, the callbacks that it sends, the mark that proves that it can write.

Units of the store.
"""

import json
from collections.abc import Collection, Sequence
from typing import Final

from shellrunner.clock import Millis
from shellrunner.model import Claim, Delivery
from shellrunner.store import rows
from shellrunner.store.columns import ClaimRow, columns
from shellrunner.store.db import Db
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.units import due_callbacks
from shellrunner.store.values import DueCallback

# ruff: noqa: S608  every statement here is put together from constants of this program

_RUNNING: Final = f"SELECT {columns(ClaimRow)} FROM jobs WHERE state = 'running' AND host = ? ORDER BY id"
_OWNERS: Final = "SELECT id, keeper, token, attempt FROM jobs WHERE state = 'running' AND host = ?"
_CANCELLING: Final = f"""SELECT {columns(ClaimRow)} FROM jobs WHERE state = 'running' AND host = ? AND cancelling != 0
    ORDER BY id"""
# A lease lasts longer than one try takes.
_LEASE_CALLBACKS: Final = """UPDATE callbacks SET leased_by = ?, leased_until = clock_timestamp() + interval '120 s'
    WHERE job IN (SELECT job FROM callbacks WHERE due IS NOT NULL AND due <= ?
        AND (leased_until IS NULL OR leased_until < clock_timestamp() OR leased_by = ?)
        AND host NOT IN (SELECT jsonb_array_elements_text(?::jsonb)) ORDER BY due LIMIT ? FOR UPDATE SKIP LOCKED)
    RETURNING job, tries, since, due"""
_RELEASE_CALLBACK: Final = """UPDATE callbacks SET leased_by = NULL, leased_until = NULL
    WHERE job = ? AND leased_by = ?"""
# One that another node is sending is looked at again when its lease ends, should that node not live any more.
_NEXT_CALLBACK: Final = """SELECT min(CASE WHEN leased_by IS NULL OR leased_by = ? THEN due
        ELSE greatest(due, (extract(epoch FROM leased_until) * 1000)::bigint) END)
    FROM callbacks WHERE due IS NOT NULL"""
_MARK: Final = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING value"


def running(db: Db, node: str) -> list[Claim]:
    """Return the claims of the jobs that the node runs, the oldest job first, without their secrets.

    Before them those that are not settled (`unsettled`), which may be of earlier attempts.
    """
    claims = [rows.readable_claim(ClaimRow._make(row)) for row in db.execute(_RUNNING, (node,))]
    return unsettled.of_host(db, node) + claims


def owners(db: Db, node: str) -> dict[int, SlotOwner]:
    """Return who of the node has claimed each job that it runs."""
    return {row[0]: SlotOwner(*row[1:]) for row in db.execute(_OWNERS, (node,)).fetchall()}


def cancelling(db: Db, node: str) -> list[Claim]:
    """Return those of them whose cancellation was requested."""
    claims = [rows.readable_claim(ClaimRow._make(row)) for row in db.execute(_CANCELLING, (node,))]
    return claims + unsettled.cancelling(db, node)


def lease_callbacks(db: Db, node: str, now: Millis, limit: int, skip_hosts: Collection[str]) -> Sequence[DueCallback]:
    """Take callbacks that are due, so that no other node sends them for a while."""
    values = (node, now, node, json.dumps([*skip_hosts]), limit)
    leased = sorted(db.execute(_LEASE_CALLBACKS, values).fetchall(), key=lambda row: row[3])
    return due_callbacks.to_due(db, [row[:3] for row in leased])


def record_callback_try(
    db: Db, node: str, job_id: int, error: str | None, retry_at: Millis | None
) -> Delivery | None:
    """Record a try and return its outcome, None if the job was deleted; any node may make the next one."""
    outcome = due_callbacks.record_try(db, job_id, error, retry_at)
    db.execute(_RELEASE_CALLBACK, (job_id, node))
    return outcome


def next_callback(db: Db, node: str) -> Millis | None:
    """Return when this node is to look for a callback to send."""
    ((moment,),) = db.execute(_NEXT_CALLBACK, (node,)).fetchall()
    return None if moment is None else int(moment)


def write_mark(db: Db, node: str, mark: str) -> str:
    """Write a mark of the node and return what is read back."""
    ((value,),) = db.execute(_MARK, (f"alive {node}", mark)).fetchall()
    return str(value)
