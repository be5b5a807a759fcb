"""The rows of `orders`: written by the node that asks, taken and answered by the host, collected by the node.

    node   INSERT, and a note to the host                    one statement; its bytes are sealed by `input_keys`
    host   UPDATE … SET taken_by … RETURNING, oldest first   from now on the order is not carried out again
           carries it out
           UPDATE … SET answer …, and a note to the node     one statement
    node   DELETE … WHERE answer IS NOT NULL RETURNING

Each statement is a transaction of its own, without a flush of the write-ahead log, in which the table has no part:
this is why a note may go with it, and why a keystroke is quick. Used by `order_exchange` and `order_service` on the
thread of a connection. Must not know what an order says.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from shellrunner.store.db import Db
from shellrunner.store.hosts import TIMEOUT, Answer, HostOrder, OrderKind
from shellrunner.store.postgres.effects.outbox import CHANNEL
from shellrunner.store.postgres.hosts.lease import LEASE
from shellrunner.store.postgres.orders import input_keys
from shellrunner.store.postgres.orders.input_keys import InputKeys

# ruff: noqa: S608  every statement here is put together from constants of this program

_MAX_AGE: Final = 60  # seconds; older rows are removed
_NEW: Final = 2  # seconds for which a job counts as new
_IS_NEW: Final = f"created > extract(epoch FROM clock_timestamp() - interval '{_NEW} s') * 1000"
_IS_REACHABLE: Final = f"hosts.seen > clock_timestamp() - interval '{LEASE:g} s'"
_NOTE: Final = f"""pg_notify({CHANNEL.format("added.host")}, '{{"order": 1}}')::text"""
_ADD: Final = f"""WITH target AS (
        SELECT state, host, token, {_IS_NEW} AS is_new,
            EXISTS (SELECT 1 FROM hosts WHERE name = jobs.host AND {_IS_REACHABLE}) AS reached
        FROM jobs WHERE id = ?),
    added AS (INSERT INTO orders (key, asker, host, job, token, kind, content, data)
        SELECT ?, ?, host, ?, token, ?, ?::jsonb, ? FROM target WHERE state = 'running' AND reached AND host <> ?
            AND ?::boolean RETURNING host)
    SELECT state, target.host, reached, is_new, CASE WHEN added.host IS NOT NULL THEN {_NOTE} END
    FROM target LEFT JOIN added ON true"""
_ADD_TO_HOSTS: Final = f"""WITH added AS (INSERT INTO orders (key, asker, host, kind, content)
        SELECT wanted.key, ?, wanted.host, ?, ?::jsonb
        FROM unnest(?::text[], ?::text[]) AS wanted (key, host) JOIN hosts ON hosts.name = wanted.host
        WHERE {_IS_REACHABLE} RETURNING key, host)
    SELECT key, {_NOTE} FROM added"""
_TAKE: Final = f"""WITH open AS (SELECT id, data FROM orders WHERE host = ? AND taken_by IS NULL
        AND created > clock_timestamp() - interval '{TIMEOUT:g} s' ORDER BY id FOR UPDATE),
    taken AS (UPDATE orders SET taken_by = ?, data = NULL FROM open WHERE orders.id = open.id
        RETURNING orders.id, key, kind, content, job, token,
            extract(epoch FROM clock_timestamp() - created)::double precision AS age)
    SELECT taken.id, taken.key, age, kind, content, open.data, job, taken.token, job_keys.key
    FROM taken JOIN open ON open.id = taken.id LEFT JOIN jobs ON jobs.id = taken.job AND open.data IS NOT NULL
    LEFT JOIN job_keys ON job_keys.name = split_part(jobs.secrets, ':', 2) ORDER BY taken.id"""
_NOTE_ANSWERED: Final = f"""SELECT pg_notify({CHANNEL.format("asker")}, '{{"answer": 1}}')
    FROM (SELECT DISTINCT asker FROM answered) AS askers"""
_ANSWER: Final = f"""WITH answered AS (UPDATE orders SET answer = given.answer::jsonb
        FROM unnest(?::bigint[], ?::text[], ?::text[]) AS given (id, key, answer)
        WHERE orders.id = given.id AND orders.key = given.key RETURNING asker)
    {_NOTE_ANSWERED}"""
_ANSWER_TAKEN: Final = f"""WITH answered AS (UPDATE orders SET answer = ?::jsonb
        WHERE host = ? AND taken_by <> ? AND answer IS NULL RETURNING asker)
    {_NOTE_ANSWERED}"""
_COLLECT: Final = "DELETE FROM orders WHERE asker = ? AND answer IS NOT NULL RETURNING key, answer"
# Nobody will take it: the job has ended, or runs under another claim.
_WITHDRAW: Final = """DELETE FROM orders WHERE asker = ? AND taken_by IS NULL AND job IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM jobs WHERE id = orders.job AND state = 'running' AND token = orders.token) RETURNING key"""
_REMOVE_OLD: Final = f"DELETE FROM orders WHERE created < clock_timestamp() - interval '{_MAX_AGE} s'"


class WrittenOrder(NamedTuple):
    """What was found when an order was to be written: it was if `is_written`.

    host: that runs the job. is_new: the job was accepted less than two seconds ago.
    """

    state: str
    host: str | None
    is_reachable: bool
    is_new: bool
    is_written: bool


class TakenOrder(NamedTuple):
    """An order that this host has taken, how old it is (seconds), and whether its bytes could be unsealed."""

    row: int
    key: str
    age: float
    order: HostOrder
    is_readable: bool


def add(db: Db, asker: str, key: str, order: HostOrder, keys: InputKeys) -> WrittenOrder | None:
    """Write an order to the host that runs the job, unless it is the asker itself; None: there is no such job.

    If its bytes cannot be sealed yet, it is not written.
    """
    job_id, content = order.job_id, json.dumps(order.content)
    data = keys.seal(db, job_id, order.data) if job_id is not None and order.data else None
    may_write = data is not None or not order.data
    values = (job_id, key, asker, job_id, order.kind, content, data, asker, may_write)
    row = db.execute(_ADD, values).fetchone()
    return None if row is None else WrittenOrder(row[0], row[1], row[2], row[3], row[4] is not None)


def add_to_hosts(db: Db, asker: str, hosts: Mapping[str, str], order: HostOrder) -> set[str]:
    """Write orders to hosts, by key; return the keys of those that can be reached."""
    values = (asker, order.kind, json.dumps(order.content), [*hosts], [*hosts.values()])
    return {row[0] for row in db.execute(_ADD_TO_HOSTS, values).fetchall()}


def take(db: Db, host: str, incarnation: str) -> list[TakenOrder]:
    """Take the orders to this host, in their order."""
    rows = db.execute(_TAKE, (host, incarnation)).fetchall()
    taken = []
    for row, key, age, kind, content, sealed, job_id, token, job_key in rows:
        data = input_keys.unseal(job_id, sealed, job_key)
        order = HostOrder(OrderKind(kind), content, data or b"", job_id, token)
        taken.append(TakenOrder(row, key, age, order, is_readable=data is not None))
    return taken


def answer(db: Db, answers: Iterable[tuple[int, str, Answer]]) -> None:
    """Answer orders, named by row and key."""
    rows, keys, contents = zip(*answers, strict=True)
    db.execute(_ANSWER, ([*rows], [*keys], [json.dumps(content) for content in contents]))


def answer_interrupted(db: Db, host: str, incarnation: str, content: Answer) -> None:
    """Answer the orders that an earlier process of this host has taken: whether it carried them out is not known."""
    db.execute(_ANSWER_TAKEN, (json.dumps(content), host, incarnation))


def collect(db: Db, asker: str) -> dict[str, Answer]:
    """Return the answers that have come for this node, by key, once."""
    return dict(db.execute(_COLLECT, (asker,)).fetchall())


def withdraw(db: Db, asker: str) -> list[str]:
    """Withdraw orders about claims that are over; return their keys."""
    return [key for (key,) in db.execute(_WITHDRAW, (asker,)).fetchall()]


def remove_old(db: Db) -> None:
    """Remove orders that nobody waits for any more."""
    db.execute(_REMOVE_OLD)
