"""The rows of `commands`: what hosts know of the commands that they run. Units of the store; used by `command_facts`.

A row counts only while its job runs under the row's token. `version` grows with each change of one claim.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from shellrunner.clock import Millis
from shellrunner.model import CommandState, TerminalSize
from shellrunner.store.db import Db

_WRITE: Final = """INSERT INTO commands (job, token, version, pid, paused, terminal_rows, terminal_columns)
    SELECT * FROM unnest(?::bigint[], ?::text[], ?::bigint[], ?::bigint[], ?::boolean[], ?::bigint[], ?::bigint[])
    ON CONFLICT (job) DO UPDATE SET token = excluded.token, version = excluded.version, pid = excluded.pid,
        paused = excluded.paused, terminal_rows = excluded.terminal_rows, terminal_columns = excluded.terminal_columns
    WHERE commands.token <> excluded.token OR commands.version < excluded.version"""
_DELETE: Final = """DELETE FROM commands USING unnest(?::bigint[], ?::text[]) AS ended (job, token)
    WHERE commands.job = ended.job AND commands.token = ended.token"""
_REMOVE_STALE: Final = """DELETE FROM commands WHERE NOT EXISTS
    (SELECT 1 FROM jobs WHERE id = commands.job AND state = 'running' AND token = commands.token)"""
_READ: Final = """SELECT jobs.id, jobs.token, version, pid, paused, terminal_rows, terminal_columns, claimed
    FROM jobs LEFT JOIN commands ON commands.job = jobs.id AND commands.token = jobs.token
    WHERE jobs.id = ANY(?) AND state = 'running'"""
_READ_ALL: Final = """SELECT jobs.id, jobs.token, version, pid, paused, terminal_rows, terminal_columns, claimed
    FROM commands JOIN jobs ON jobs.id = commands.job AND jobs.token = commands.token WHERE state = 'running'"""


class CommandRow(NamedTuple):
    """What is known of the command of one claim. version: None: there is no row of it. claimed: None: not known."""

    job_id: int
    token: str
    version: int | None
    state: CommandState
    claimed: Millis | None = None


def to_json(row: CommandRow) -> list[object]:
    """Return the row as it goes with an answer."""
    size = row.state.terminal
    return [row.token, row.version, row.state.pid, row.state.paused, [size.rows, size.columns] if size else None]


def from_json(job_id: int, content: Sequence[Any]) -> CommandRow:
    """Return the row that came with an answer."""
    token, version, pid, paused, size = content
    return CommandRow(job_id, token, version, CommandState(pid, paused, TerminalSize(*size) if size else None))


def write(db: Db, rows: Sequence[CommandRow]) -> None:
    """Write rows, unless there are newer ones."""
    sizes = [row.state.terminal for row in rows]
    values = (
        [row.job_id for row in rows],
        [row.token for row in rows],
        [row.version for row in rows],
        [row.state.pid for row in rows],
        [row.state.paused for row in rows],
        [size and size.rows for size in sizes],
        [size and size.columns for size in sizes],
    )
    db.execute(_WRITE, values)


def delete(db: Db, claims: Iterable[tuple[int, str]]) -> None:
    """Delete the rows of claims that are over."""
    ended = [*claims]
    db.execute(_DELETE, ([job_id for job_id, _ in ended], [token for _, token in ended]))


def remove_stale(db: Db) -> None:
    """Delete rows whose hosts could not."""
    db.execute(_REMOVE_STALE)


def read(db: Db, job_ids: Iterable[int]) -> list[CommandRow]:
    """Return a row for each of these jobs that runs, also if nothing is written of it."""
    return [_to_row(row) for row in db.execute(_READ, ([*job_ids],)).fetchall()]


def read_all(db: Db) -> list[CommandRow]:
    """Return the rows of all jobs that run."""
    return [_to_row(row) for row in db.execute(_READ_ALL).fetchall()]


def _to_row(row: Sequence[Any]) -> CommandRow:
    job_id, token, version, pid, paused, rows, columns, claimed = row
    size = TerminalSize(rows, columns) if rows is not None else None
    state = CommandState() if version is None else CommandState(pid, paused, size)
    return CommandRow(job_id, token, version, state, claimed)
