"""How many jobs are in which state, and how much output the done ones have, as rows: exact in each transaction.

Each node writes rows of its own, by how much its transactions have changed, so that nodes do not wait for each other;
the sums are what there is. Units of the store. Must not know limits.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from shellrunner.model import State
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.dialect import Unread
from shellrunner.store.queues import Line
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.values import HistorySize

_UNDONE: Final = (State.WAITING, State.QUEUED, State.RUNNING)
Change = dict[Line, dict[State, int]]

_ADD: Final = Unread("""WITH counted AS (INSERT INTO counts (node, queue, submitter, waiting, queued, running)
    SELECT ?, * FROM unnest(?::text[], ?::text[], ?::bigint[], ?::bigint[], ?::bigint[])
    ON CONFLICT (node, queue, submitter) DO UPDATE SET waiting = counts.waiting + excluded.waiting,
    queued = counts.queued + excluded.queued, running = counts.running + excluded.running)
    INSERT INTO sizes (node, jobs, bytes) SELECT ?, ?, ? WHERE ?
    ON CONFLICT (node) DO UPDATE SET jobs = sizes.jobs + excluded.jobs, bytes = sizes.bytes + excluded.bytes""")
READ: Final = """SELECT queue, submitter, sum(waiting), sum(queued), sum(running) FROM counts
    GROUP BY queue, submitter"""
_SIZE: Final = "SELECT coalesce(sum(jobs), 0), coalesce(sum(bytes), 0) FROM sizes"


def write(db: Db, node: str, transitions: Transitions) -> None:
    """Write what these transitions change."""
    changed = [(line, by) for line, by in change_of(transitions).items() if any(by.values())]
    jobs, size = size_change_of(transitions)
    if changed or jobs or size:
        queues, submitters = [line.queue for line, _ in changed], [line.submitter or "" for line, _ in changed]
        columns = [[by[state] for _, by in changed] for state in _UNDONE]
        db.execute(_ADD, (node, queues, submitters, *columns, node, jobs, size, bool(jobs or size)))


def read(db: Db) -> list[tuple[Line, State, int]]:
    """Return how many jobs are in each state, without those of which there are none."""
    return undone(db.execute(READ).fetchall())


def undone(rows: Iterable[tuple[str, str, int, int, int]]) -> list[tuple[Line, State, int]]:
    """Return what rows of `READ` say."""
    return [
        (Line(queue, submitter or None), state, number)
        for queue, submitter, *numbers in rows
        for state, number in zip(_UNDONE, numbers, strict=True)
        if number
    ]


def size(db: Db) -> HistorySize:
    """Return how many jobs are done, and how much output they have."""
    ((jobs, size_),) = db.execute(_SIZE).fetchall()
    return HistorySize(int(jobs), int(size_))


def change_of(transitions: Transitions) -> Change:
    """Return by how much the transitions change the counts."""
    change: Change = {}
    for transition in transitions:
        before, after = transition.before, transition.after
        if before is after and transition.previous_queue is None:
            continue
        if before is not None and before is not State.DONE:
            _count(change, transition.previous_queue or transition.queue, transition.submitter, before, -1)
        if after is not None and after is not State.DONE:
            _count(change, transition.queue, transition.submitter, after, 1)
    return change


def size_change_of(transitions: Iterable[Transition]) -> tuple[int, int]:
    """Return by how many done jobs, and bytes of output, the transitions change the history."""
    total: Counter[str] = Counter()
    for transition in transitions:
        if transition.before is State.DONE:
            total["jobs"] -= transition.after is None
            total["bytes"] -= transition.size or 0
        elif transition.after is State.DONE:
            total["jobs"] += 1
            total["bytes"] += transition.size or 0
    return total["jobs"], total["bytes"]


def _count(change: Change, queue: str, submitter: str | None, state: State, by: int) -> None:
    change.setdefault(Line(queue, submitter), dict.fromkeys(_UNDONE, 0))[state] += by
