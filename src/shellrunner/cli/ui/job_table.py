"""The table of jobs that `ps` shows, and the columns that it may have. Must not know how jobs are selected."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from shellrunner import ascii_text
from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.job_state import state_cell
from shellrunner.cli.ui.table import Cell, Column, render_table, terminal_width

_MIN_WIDTH: Final = 60  # columns of a terminal below which only id, state and command are shown

Row = Mapping[str, Any]


class _JobColumn(NamedTuple):
    """A column: its cell for a row, its alignment, and whether it is shown only if a row has something in it."""

    cell: Callable[[Row], Cell]
    right: bool = False
    optional: bool = False


def _text(key: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = row.get(key)
        return Cell("" if value is None else str(value))

    return cell


def _moment(key: str) -> Callable[[Row], Cell]:
    return lambda row: Cell(formatting.format_local_time(row[key]) if row.get(key) else "", "dim")


def _age(row: Row) -> Cell:
    return Cell(formatting.format_age(row["created"]), "dim")


def _duration(row: Row) -> Cell:
    if not row["started"]:
        return Cell("")
    return Cell(formatting.format_duration(formatting.seconds_between(row["started"], row["completed"])))


def _name(row: Row) -> Cell:
    return Cell(row.get("name") or row["labels"].get("name", ""))


def _queue(row: Row) -> Cell:
    return Cell("" if row["queue"] == "default" else row["queue"])


def _reason(row: Row) -> Cell:
    pending = row.get("pending")
    return Cell(formatting.describe_pending(pending) if pending else "", "dim")


def _host(row: Row) -> Cell:
    return Cell(row.get("host") or "", "red" if row.get("unreachable") else "")


def _labels(row: Row) -> Cell:
    return Cell(", ".join(f"{key}={value}" for key, value in row["labels"].items()))


def _after(row: Row) -> Cell:
    return Cell(",".join(map(str, row["after"])))


# By the name that `--columns` has for each, which is its heading too.
COLUMNS: Final = {
    "id": _JobColumn(_text("job_id"), right=True),
    "state": _JobColumn(state_cell),
    "created": _JobColumn(_age),
    "time": _JobColumn(_duration, right=True),
    "queue": _JobColumn(_queue, optional=True),
    "name": _JobColumn(_name, optional=True),
    "reason": _JobColumn(_reason, optional=True),
    "command": _JobColumn(_text("command")),
    "labels": _JobColumn(_labels),
    "priority": _JobColumn(_text("priority"), right=True),
    "attempt": _JobColumn(_text("attempt"), right=True),
    "exit-code": _JobColumn(_text("exit_code"), right=True),
    "pid": _JobColumn(_text("pid"), right=True),
    "after": _JobColumn(_after),
    "start-at": _JobColumn(_moment("start_at")),
    "submitted": _JobColumn(_moment("created")),
    "started": _JobColumn(_moment("started")),
    "completed": _JobColumn(_moment("completed")),
    "submitter": _JobColumn(_text("submitter")),
    "user": _JobColumn(_text("run_as")),
    "host": _JobColumn(_host),
    "profile": _JobColumn(_text("profile")),
    "cwd": _JobColumn(_text("cwd")),
}
_WIDE: Final = ("id", "state", "created", "time", "queue", "name", "command", "reason")
_NARROW: Final = ("id", "state", "command")


def render_jobs(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Return the table with these columns; by default with those that say something and fit on the terminal."""
    if columns is None:
        is_wide = (terminal_width() or _MIN_WIDTH) >= _MIN_WIDTH
        columns = [name for name in (_WIDE if is_wide else _NARROW) if _says_something(COLUMNS[name], rows)]
    chosen = [COLUMNS[name] for name in columns]
    headings = [
        Column(ascii_text.upper(name.replace("-", " ")), right=column.right, flexible=name == "command")
        for name, column in zip(columns, chosen, strict=True)
    ]
    return render_table(headings, [[column.cell(row) for column in chosen] for row in rows])


def _says_something(column: _JobColumn, rows: Sequence[Row]) -> bool:
    return not column.optional or any(column.cell(row).text for row in rows)
