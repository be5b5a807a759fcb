"""What a figure is: contenders that are measured in interleaved rounds, and goals."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

from benchmarks.versions import Version

LIMIT: Final = "limit"

# The values of one round, by the key of a measure, in its base unit (seconds, bytes, bytes per second).
Sample = Mapping[str, float]
Round = Callable[[], Sample]


def limit_of(version: str) -> str:
    """Return the name of the contender that is the limit of one version only, where each has a limit of its own."""
    return f"{LIMIT} of {version}"


class Unavailable(Exception):
    """A contender cannot be measured here; the text says why."""


class Goal(NamedTuple):
    """What is to be reached, and what is aimed at.

    Compared with the share of the limit (`limit / value`, for rates `value / limit`), the multiple of it
    (`value / limit`), the value itself in its unit, or the multiple of the figure's `baseline` contender.
    """

    reach: float
    aim: float
    of: Literal["share", "times", "value"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One kind of value: how it is printed, and its goal."""

    key: str
    label: str
    unit: str
    scale: float = 1
    digits: int = 0
    is_rate: bool = False  # more is better
    goal: Goal | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The options of one run of the benchmark."""

    directory: Path
    versions: tuple[Version, ...]
    is_quick: bool = False
    peers: Path | None = None  # where peers are installed

    def count(self, full: int, quick: int) -> int:
        """Return a number of operations: `full`, or `quick` for a run that only shows that everything works."""
        return quick if self.is_quick else full


Contenders = Mapping[str, Round | Unavailable]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure: its contenders by name are ready for rounds while the context lasts."""

    name: str
    title: str
    measures: tuple[Measure, ...]
    contenders: Callable[[Run], AbstractContextManager[Contenders]]
    max_rounds: int | None = None  # of figures that take long


@dataclass(slots=True)
class Outcome:
    """What the rounds of a figure measured."""

    figure: Figure
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    failed: str = ""

    def values(self, contender: str, measure: Measure) -> list[float]:
        """Return a contender's values in order of the rounds, in the unit of the measure."""
        return [
            sample[measure.key] * measure.scale for sample in self.samples.get(contender, []) if measure.key in sample
        ]


def cpu(label: str = "CPU", goal: Goal | None = None) -> Measure:
    """Return the measure of CPU time per operation in µs."""
    return Measure("cpu", label, "µs", 1e6, goal=goal)


def wall(label: str = "wall", goal: Goal | None = None) -> Measure:
    """Return the measure of wall time per operation in µs."""
    return Measure("wall", label, "µs", 1e6, goal=goal)


def client(label: str = "CPU of the load") -> Measure:
    """Return the measure of the load generator's own CPU time per operation in µs."""
    return Measure("client", label, "µs", 1e6)
