"""Tables for people: fitted to a terminal, whole and without colours elsewhere.

Everything is shown as text, whatever it holds. Must not know what the rows are.
"""

import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from shellrunner.cli.ui.formatting import visible

_GAP: Final = "  "
_WIDE: Final = 100_000  # columns of what is no terminal: nothing is cut


class Cell(NamedTuple):
    """A text and how it looks."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A heading; `right` for numbers."""

    heading: str
    right: bool = False


def console() -> Console:
    """Standard output as rich sees it: colours on a terminal only, and not with NO_COLOR."""
    width = None if sys.stdout.isatty() else _WIDE
    return Console(highlight=False, markup=False, emoji=False, width=width)


def rendered(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """The table as it is to be printed; the last column is cut where there is no room for all of it."""
    out = console()
    lines = [[Cell(column.heading, "bold") for column in columns]]
    lines += [[Cell(visible(cell.text), cell.style) for cell in row] for row in rows]
    widths = [max(cell_len(line[at].text) for line in lines) for at in range(len(columns))]
    with out.capture() as captured:
        for line in lines:
            out.print(_line(line, columns, widths, out.width), soft_wrap=True)
    return captured.get().rstrip("\n")


def _line(cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], room: int) -> Text:
    line = Text()
    for cell, column, width in zip(cells, columns, widths, strict=True):
        free = width - cell_len(cell.text)
        line.append(" " * free * column.right)
        line.append(cell.text, cell.style)
        line.append(" " * free * (not column.right) + _GAP)
    line.rstrip()
    line.truncate(room, overflow="ellipsis")
    return line
