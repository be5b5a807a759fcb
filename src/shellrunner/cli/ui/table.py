"""Tables for users: cut to the width of a terminal, complete and without styles elsewhere.

Cells are plain text, whatever they contain. Must not know what the rows are.
"""

import shutil
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from wcwidth import clip, ljust, rjust, width

from shellrunner import control_characters
from shellrunner.cli.ui.ansi import Styler

_GAP: Final = "  "


class Cell(NamedTuple):
    """A text and the name of its style."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A heading, and the alignment: `right` for numbers."""

    heading: str
    right: bool = False


def terminal_width() -> int | None:
    """Return the number of columns, None if standard output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def render_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """Return the table as lines of text; each line is cut at the width of the terminal."""
    styler, max_width = Styler(), terminal_width()
    table = [[Cell(column.heading, "bold") for column in columns]]
    table += [[Cell(control_characters.escape(cell.text), cell.style) for cell in row] for row in rows]
    widths = [max(width(row[index].text) for row in table) for index in range(len(columns))]
    lines = (_render_row(row, columns, widths, styler) for row in table)
    return "\n".join(line if max_width is None else _cut(line, max_width) for line in lines)


def _render_row(row: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], styler: Styler) -> str:
    # The functions of wcwidth count a wide character as two columns, and an escape sequence as none.
    return _GAP.join(
        (rjust if column.right else ljust)(styler.apply(cell.text, cell.style), column_width)
        for cell, column, column_width in zip(row, columns, widths, strict=True)
    ).rstrip()


def _cut(line: str, max_width: int) -> str:
    return line if width(line) <= max_width else clip(line, 0, max_width - 1) + "…"
