"""The table of figures, as text and as JSON."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.figure import LIMIT, Goal, Measure, Outcome

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
    contenders.pop(LIMIT, None)
    title = outcome.figure.title
    for measure in outcome.figure.measures:
        limit = outcome.values(LIMIT, measure)
        for contender in contenders:
            if contender in outcome.unavailable:
                if measure is outcome.figure.measures[0]:
                    yield Line(title, measure, contender, note=outcome.unavailable[contender])
                continue
            values = outcome.values(contender, measure)
            if not values:
                continue
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
    measure, goal = line.measure, line.goal
    suffix = {"share": "", "times": " ×", "value": f" {measure.unit}"}[goal.of] if goal else ""
    return (
        line.figure,
        f"{measure.label}, {measure.unit}",
        line.contender,
        line.note or _spread_cell(line.value, measure),
        _spread_cell(line.limit, measure),
        "" if line.of_limit is None else f"{line.of_limit:.2f}",
        "" if line.to_before is None else f"{line.to_before:.2f}",
        f"{goal.reach:g}{suffix}" if goal else "",
        f"{goal.aim:g}{suffix}" if goal else "",
        line.reached,
    )


def _spread_cell(values: Spread | None, measure: Measure) -> str:
    if values is None:
        return ""
    median, lowest, highest = (f"{value:,.{measure.digits}f}" for value in values)
    return f"{median} ({lowest} to {highest})"


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
