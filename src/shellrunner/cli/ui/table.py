"""Tables for users: cut to the width of a terminal, complete and without styles elsewhere.

Cells are plain text, whatever they contain. Must not know what the rows are.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final, NamedTuple

from shellrunner import control_characters
from shellrunner.cli.ui.ansi import Styler

_GAP: Final = "  "
_MIN_FLEXIBLE: Final = 16  # columns


class Cell(NamedTuple):
    """A text and the name of its style."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A heading, and the alignment: `right` for numbers. A `flexible` column gives way to those behind it."""

    heading: str
    right: bool = False
    flexible: bool = False


def terminal_width() -> int | None:
    """Return the number of columns, None if standard output is not a terminal."""
    if not sys.stdout.isatty():
        return None
    import shutil  # noqa: PLC0415  it takes 5 ms, and imports four compressions

    return shutil.get_terminal_size().columns


def render_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """Return the table as lines of text; each line is cut at the width of the terminal."""
    styler, max_width = Styler(), terminal_width()
    table = [[Cell(column.heading, "bold") for column in columns]]
    table += [[Cell(control_characters.escape(cell.text), cell.style) for cell in row] for row in rows]
    widths = [max(_width(row[index].text) for row in table) for index in range(len(columns))]
    if max_width is not None:
        _shrink(table, columns, widths, max_width)
    return "\n".join(_render_row(_padded(row, columns, widths), max_width, styler) for row in table)


def _shrink(table: list[list[Cell]], columns: Sequence[Column], widths: list[int], max_width: int) -> None:
    """Shorten the cells of the flexible column as far as the table is too wide."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - max_width
    for index, column in enumerate(columns):
        if column.flexible and excess > 0 and widths[index] > _MIN_FLEXIBLE:
            widths[index] = max(_MIN_FLEXIBLE, widths[index] - excess)
            for row in table:
                row[index] = row[index]._replace(text=_shortened(row[index].text, widths[index]))


def _shortened(text: str, width: int) -> str:
    return text if _width(text) <= width else f"{_clip(text, width - 1)}…"


def _padded(row: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int]) -> list[Cell]:
    """Return a line as cells, of which those without a style are the blanks between the columns."""
    line: list[Cell] = []
    for cell, column, column_width in zip(row, columns, widths, strict=True):
        blanks = Cell(" " * (column_width - _width(cell.text)))
        line += [blanks, cell] if column.right else [cell, blanks]
        line.append(Cell(_GAP))
    while line and not line[-1].text.rstrip():
        line.pop()
    return line


def _render_row(line: Sequence[Cell], max_width: int | None, styler: Styler) -> str:
    if max_width is not None and sum(_width(cell.text) for cell in line) > max_width:
        line = _cut(line, max_width)
    return "".join(styler.apply(cell.text, cell.style) for cell in line)


def _cut(line: Sequence[Cell], max_width: int) -> list[Cell]:
    cut, rest = [], max_width - 1
    for cell in line:
        cut.append(Cell(_clip(cell.text, rest), cell.style))
        rest -= _width(cell.text)
        if rest < 0:
            break
    return [*cut, Cell("…")]


def _width(text: str) -> int:
    return len(text) if text.isascii() else _wcwidth().width(text)


def _clip(text: str, max_width: int) -> str:
    return text[:max_width] if text.isascii() else _wcwidth().clip(text, 0, max_width)


def _wcwidth() -> ModuleType:
    import wcwidth  # noqa: PLC0415  its tables take 10 ms, and most tables are ASCII

    return wcwidth
