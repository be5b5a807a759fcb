"""The SQL that both back ends share, as PostgreSQL takes it: see `store.db` for what is SQLite's own in it.

Used by `postgres_db`. Each statement is translated once; there are some hundred, apart from those of lists, whose
number follows from the filters and sorts in use.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, get_type_hints

from shellrunner.store import rows
from shellrunner.store.columns import NewJobRow, columns
from shellrunner.store.query import index_scans, search
from shellrunner.store.units import admission, due_callbacks, lifecycle, locks

# ruff: noqa: S608  every statement here is put together from constants of this program

_CACHE_SIZE: Final = 2048
_INDEXED_BY: Final = re.compile(r" INDEXED BY \w+")
_JSON_EACH: Final = re.compile(r"\bFROM json_each\((\?\d?)\)( AS \w+)?")
_CROSS_JOIN_ON: Final = re.compile(r"CROSS JOIN (\w+) ON")
_IS_PARAMETER: Final = re.compile(r"\bIS (\?)")
_NUMBERED: Final = re.compile(r"\?\d")

_ELEMENTS: Final = "jsonb_array_elements_text(?::jsonb)"
_WANTED: Final = "(SELECT value AS wanted FROM json_each(?)) AS list"
_IN_ORDER: Final = f"""(SELECT element::bigint AS wanted, place FROM {_ELEMENTS}
    WITH ORDINALITY AS elements (element, place)) AS list"""

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

# A parameter that is selected has no column that it takes its type from.
_TYPED: Final = ", ".join(
    "?::bigint" if "int" in str(kind) else "?::text" for kind in get_type_hints(NewJobRow).values()
)
# What a host is judged to be holds for what runs there.
_HOST_COLUMNS: Final = """jobs.host AS host, CASE WHEN jobs.state = 'running' THEN (SELECT (extract(epoch FROM
    hosts.unreachable) * 1000)::bigint FROM hosts WHERE hosts.name = jobs.host) END AS unreachable_since,
    jobs.found AS found"""

_EARLIER_COLUMNS: Final = "attempts.host AS attempt_host, attempts.found AS attempt_found"

# Statements that mean the same, but are written otherwise here. What is searched of a job has a table of its own:
# its index would be written with each change of the job's row.
_WHOLE: Final = {
    locks.LOCK: f"{locks.LOCK} FOR UPDATE",
    rows.LISTED: f"{rows.LISTED.replace(_WANTED, _IN_ORDER)} ORDER BY place",
    rows.LISTED_WITHOUT_SPEC: f"{rows.LISTED_WITHOUT_SPEC.replace(_WANTED, _IN_ORDER)} ORDER BY place",
    due_callbacks.DUE: due_callbacks.DUE.replace("SELECT value FROM json_each(?)", f"SELECT {_ELEMENTS}"),
    # By the clock that all nodes share.
    due_callbacks.JOB_ENDED: f"UPDATE callbacks SET since = {_NOW}, due = {_NOW} WHERE job = ?",
    # A job that is claimed at once is this node's, whose name the connection has (`connection_thread`).
    admission.ADD: f"""WITH added AS (INSERT INTO jobs ({columns(NewJobRow)}, host)
            SELECT *, CASE WHEN token IS NOT NULL THEN current_setting('shellrunner.node') END
            FROM (VALUES ({_TYPED})) AS new ({columns(NewJobRow)}) RETURNING id),
        searched AS (INSERT INTO search (job, text) SELECT id, ? FROM added)
        SELECT id FROM added""",
    lifecycle.ADD_ATTEMPT: lifecycle.ADD_ATTEMPT.replace("token, ", "token, host, ", 1).replace(
        "VALUES (?, ?, ?, ?, ?, ", "VALUES (?, ?, ?, ?, ?, (SELECT host FROM jobs WHERE id = ?), ", 1
    ),
    search.INDEXED_UP_TO: "SELECT 0",  # so the units leave the index alone; triggers follow what they do to jobs
}

Parameters = Sequence[Any]
_NAME, _COMMAND = map(NewJobRow._fields.index, ("name", "command"))


def _with_searched(row: Parameters) -> Parameters:
    return (*row, search.fold(search.text_of(row[_NAME], row[_COMMAND])))


_FURTHER: Final[dict[str, Callable[[Parameters], Parameters]]] = {
    admission.ADD: _with_searched,
    due_callbacks.JOB_ENDED: lambda values: values[2:],
    lifecycle.ADD_ATTEMPT: lambda values: (*values[:5], values[0], *values[5:]),
}


class Statement(NamedTuple):
    """A statement with psycopg's placeholders, and what makes its parameters of the original's, if they differ."""

    sql: str
    adapt: Callable[[Parameters], Parameters] | None = None
    may_write: bool = True


@lru_cache(_CACHE_SIZE)
def translate(original: str) -> Statement:
    """Return the statement as PostgreSQL takes it."""
    sql = _WHOLE.get(original, original)
    sql = sql.replace(rows.EARLIER_COLUMNS, _EARLIER_COLUMNS)
    sql = sql.replace(rows.HOST_COLUMNS, _HOST_COLUMNS).replace(index_scans.HOST, "host")
    sql = _INDEXED_BY.sub("", sql)
    sql = _JSON_EACH.sub(_elements, sql)
    sql = _CROSS_JOIN_ON.sub(r"JOIN \1 ON", sql)
    sql = _IS_PARAMETER.sub(r"IS NOT DISTINCT FROM \1", sql)
    sql = sql.replace("char(10)", "chr(10)").replace("%", "%%")
    # Numbered parameters are used once each, in their order.
    return Statement(_NUMBERED.sub("%s", sql).replace("?", "%s"), _FURTHER.get(original), may_write(sql))


@lru_cache(_CACHE_SIZE)
def may_write(sql: str) -> bool:
    """Return whether the statement may write rows."""
    return not sql.lstrip().startswith("SELECT")


def _elements(match: re.Match[str]) -> str:
    return f"FROM (SELECT {_ELEMENTS}::bigint AS value){match[2] or ' AS list'}"


_POSITIONAL: Final = re.compile(r"\$(\d+)")


class Native(str):
    """A statement that has psycopg's placeholders already."""

    __slots__ = ()


class BinaryResult(str):
    """A statement whose rows are to be sent in binary form: data as it is, and not as twice as many digits."""

    __slots__ = ()


class Unread(str):
    """A statement whose result nobody reads: a write batch sends it with its next one, or with COMMIT.

    That one fails if it fails.
    """

    __slots__ = ()


class NativeUnread(Native, Unread):
    """Both."""

    __slots__ = ()


@lru_cache(_CACHE_SIZE)
def native(sql: str, *, is_read: bool = True) -> Native:
    """Return a statement with PostgreSQL's placeholders (`$1`) as psycopg takes it: with names, `p1` and so on."""
    text = _POSITIONAL.sub(r"%(p\1)s", sql.replace("%", "%%"))
    return Native(text) if is_read else NativeUnread(text)
