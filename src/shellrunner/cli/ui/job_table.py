"""The table of jobs that `ps` shows: id, state, age, duration, command. Must not know how jobs are selected."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shellrunner.cli.ui import formatting
from shellrunner.cli.ui.job_state import state_cell
from shellrunner.cli.ui.table import Cell, Column, render_table, terminal_width

_MIN_WIDTH: Final = 60  # columns of a terminal below which only id, state and command are shown

Row = Mapping[str, Any]


def render_jobs(rows: Sequence[Row]) -> str:
    """Return the table; the columns for queue and name appear only if a row has one that is not the default."""
    is_wide = (terminal_width() or _MIN_WIDTH) >= _MIN_WIDTH
    has_queues = is_wide and any(row["queue"] != "default" for row in rows)
    has_names = is_wide and any("name" in row["labels"] for row in rows)
    columns = [Column("ID", right=True), Column("STATE")]
    columns += [Column("CREATED"), Column("TIME", right=True)] * is_wide
    columns += [Column("QUEUE")] * has_queues + [Column("NAME")] * has_names + [Column("COMMAND")]
    return render_table(columns, [_cells(row, is_wide, has_queues, has_names) for row in rows])


def _cells(row: Row, is_wide: bool, has_queues: bool, has_names: bool) -> list[Cell]:
    cells = [Cell(str(row["job_id"])), state_cell(row)]
    if is_wide:
        cells += [Cell(formatting.format_age(row["created"]), "dim"), Cell(_duration(row))]
    if has_queues:
        cells.append(Cell(row["queue"]))
    if has_names:
        cells.append(Cell(row["labels"].get("name", "")))
    return [*cells, Cell(row["command"])]


def _duration(row: Row) -> str:
    if not row["started"]:
        return ""
    return formatting.format_duration(formatting.seconds_between(row["started"], row["completed"]))
