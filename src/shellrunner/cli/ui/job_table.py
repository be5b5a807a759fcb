"""Jobs as a table for people: number, state, when, how long, which. Used by `ps`, once or again and again."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shellrunner.cli.ui import formatting, table
from shellrunner.cli.ui.job_state import standing
from shellrunner.cli.ui.table import Cell, Column

_NARROW: Final = 60  # columns of a terminal below which only what matters most is shown

Row = Mapping[str, Any]


def overview(rows: Sequence[Row]) -> str:
    """The table."""
    wide = table.console().width >= _NARROW
    queues = wide and any(row["queue"] != "default" for row in rows)
    names = wide and any("name" in row["labels"] for row in rows)
    columns = [Column("ID", right=True), Column("STATE"), *[Column("CREATED"), Column("TIME", right=True)] * wide]
    columns += [Column("QUEUE")] * queues + [Column("NAME")] * names + [Column("COMMAND")]
    return table.rendered(columns, [_cells(row, wide=wide, queues=queues, names=names) for row in rows])


def _cells(row: Row, *, wide: bool, queues: bool, names: bool) -> list[Cell]:
    cells = [Cell(str(row["job_id"])), standing(row)]
    if wide:
        cells += [Cell(formatting.ago(row["created"]), "dim"), Cell(_lasted(row))]
    if queues:
        cells.append(Cell(row["queue"]))
    if names:
        cells.append(Cell(row["labels"].get("name", "")))
    return [*cells, Cell(row["command"])]


def _lasted(row: Row) -> str:
    return formatting.span(formatting.since(row["started"], row["completed"])) if row["started"] else ""
