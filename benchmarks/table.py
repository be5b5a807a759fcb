"""The table of figures, as text and as JSON."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.figure import LIMIT, Goal, Measure, Outcome, limit_of

COLUMNS = (
    "figure",
    "measure",
    "contender",
    "median (min to max)",
    "limit (min to max)",
    "of limit",
    "to before",
    "reach",
    "aim",
    "reached",
)


class Spread(NamedTuple):
    """The median and the range of some values."""

    median: float
    lowest: float
    highest: float


class Line(NamedTuple):
    """One line of the table: one measure of one contender of a figure, with its limit in the same rounds."""

    figure: str
    measure: Measure
    contender: str
    value: Spread | None = None
    limit: Spread | None = None
    of_limit: float | None = None  # 1: as good as the limit
    to_before: float | None = None  # below 1: less than the earlier version needs
    goal: Goal | None = None
    note: str = ""

    @property
    def reached(self) -> str:
        """Return which goal is reached: `aim`, `reach`, or `no`; nothing if there is no goal or no value."""
        if self.goal is None or self.value is None:
            return ""
        current, goals = self.value.median, self.goal[:2]
        more_is_better = self.measure.is_rate
        if self.goal.of != "value":
            if self.limit is None:
                return ""
            more_is_better = self.goal.of == "share"
            current = self.of_limit or 0.0 if more_is_better else current / self.limit.median
        if not more_is_better:
            current, goals = -current, (-goals[0], -goals[1])
        return "aim" if current >= goals[1] else "reach" if current >= goals[0] else "no"


def spread(values: Sequence[float]) -> Spread | None:
    """Return the median and the range; None of nothing."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def lines(outcome: Outcome, names: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of a figure: `names` are our versions, the current one first; the rest are peers.

    Ratios are medians of the ratios of each round, since the contenders of one round met the same machine.
    """
    contenders = dict.fromkeys((*names, *outcome.samples, *outcome.unavailable))
    for name in (LIMIT, *map(limit_of, [*contenders])):
        contenders.pop(name, None)
    title = outcome.figure.title
    for measure in outcome.figure.measures:
        for contender in contenders:
            if contender in outcome.unavailable:
                if measure is outcome.figure.measures[0]:
                    yield Line(title, measure, contender, note=outcome.unavailable[contender])
                continue
            values = outcome.values(contender, measure)
            if not values:
                continue
            limit = outcome.values(limit_of(contender), measure) or outcome.values(LIMIT, measure)
            before = outcome.values(names[1], measure) if contender == names[0] and len(names) > 1 else []
            yield Line(
                title,
                measure,
                contender,
                spread(values),
                spread(limit),
                _ratio(values, limit) if measure.is_rate else _ratio(limit, values),
                _ratio(values, before),
                measure.goal if contender in names else None,
            )


def _ratio(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Return the median of the ratios of values of the same round."""
    pairs = [value / other for value, other in zip(values, others, strict=False) if other]
    return statistics.median(pairs) if pairs else None


def text(table: Iterable[Line]) -> str:
    """Return the table as text, one line each, in columns."""
    rows = [COLUMNS, *(_cells(line) for line in table)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cells(line: Line) -> tuple[str, ...]:
    measure = line.measure
    return (
        line.figure,
        f"{measure.label}, {measure.unit}",
        line.contender,
        line.note or _spread_cell(line.value, measure),
        _spread_cell(line.limit, measure),
        "" if line.of_limit is None else f"{line.of_limit:.2f}",
        "" if line.to_before is None else f"{line.to_before:.2f}",
        *_goal_cells(line),
        line.reached,
    )


def _goal_cells(line: Line) -> tuple[str, str]:
    if line.goal is None:
        return "", ""
    suffix = {"share": "", "times": " ×", "value": f" {line.measure.unit}"}[line.goal.of]
    return f"{line.goal.reach:g}{suffix}", f"{line.goal.aim:g}{suffix}"


def _spread_cell(values: Spread | None, measure: Measure) -> str:
    if values is None:
        return ""
    median, lowest, highest = (f"{value:,.{measure.digits}f}" for value in values)
    return f"{median} ({lowest} to {highest})"


def markdown(table: Sequence[Line], names: Sequence[str]) -> str:
    """Return what has a goal as a table for the documentation, and below it one for each figure that has peers."""
    compared = dict.fromkeys(line.figure for line in table if line.contender not in names)
    tables = [_rows_of_goals(table, names), *(_rows_of_contenders(table, figure, names) for figure in compared)]
    return "\n\n".join(filter(None, map(_markdown_table, tables)))


def _rows_of_goals(table: Sequence[Line], names: Sequence[str]) -> list[Sequence[str]]:
    """Return a row for each measure that has a goal: its value in each version, the oldest first."""
    goals = [line for line in table if line.goal]
    rows: list[Sequence[str]] = [("Figure", *reversed(names), "Reach", "Aim", "Reached")]
    for line in goals:
        if line.contender == names[0]:
            by_version = {other.contender: other for other in goals if other[:2] == line[:2]}
            values = [_summary(by_version.get(name)) for name in reversed(names)]
            rows.append((f"{line.figure}: {line.measure.label}", *values, *_goal_cells(line), line.reached))
    return rows


def _rows_of_contenders(table: Sequence[Line], figure: str, names: Sequence[str]) -> list[Sequence[str]]:
    """Return a row for each contender of a figure that has peers, with all of its measures."""
    compared = [line for line in table if line.figure == figure]
    measures = list(dict.fromkeys(line.measure for line in compared if line.contender not in names))
    rows: list[Sequence[str]] = [(figure, *(f"{measure.label}, {measure.unit}" for measure in measures))]
    for contender in dict.fromkeys(line.contender for line in compared):
        own = {line.measure: line for line in compared if line.contender == contender}
        cells = {measure: line.note or _spread_cell(line.value, measure) for measure, line in own.items()}
        rows.append((contender, *(cells.get(measure, "") for measure in measures)))
    return rows


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    if len(rows) == 1:
        return ""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join((head, "|" + "---|" * len(rows[0]), *body))


def _summary(line: Line | None) -> str:
    """Return what is compared with the goal, and the values behind it."""
    if line is None or line.value is None:
        return line.note if line else ""
    value = f"{line.value.median:,.{line.measure.digits}f}"
    if line.goal is None or line.goal.of == "value" or line.limit is None or line.of_limit is None:
        return f"{value} {line.measure.unit}"
    limit = f"{line.limit.median:,.{line.measure.digits}f} {line.measure.unit}"
    if line.goal.of == "times":
        return f"{line.value.median / line.limit.median:.2f} × ({value}, limit {limit})"
    return f"{line.of_limit:.2f} ({value}, limit {limit})"


def as_json(machine: Mapping[str, str], table: Iterable[Line]) -> str:
    """Return machine and table as a JSON document."""
    return json.dumps(
        {"machine": machine, "lines": [_document(line) for line in table]}, indent=1, ensure_ascii=False
    )


def _document(line: Line) -> dict[str, object]:
    return {
        "figure": line.figure,
        "measure": line.measure.label,
        "unit": line.measure.unit,
        "contender": line.contender,
        "value": line.value and line.value._asdict(),
        "limit": line.limit and line.limit._asdict(),
        "of_limit": line.of_limit,
        "to_before": line.to_before,
        "goal": line.goal and line.goal._asdict(),
        "reached": line.reached,
        "note": line.note,
    }
