"""Retention as plain values: how much history is to be kept, and how much there is.

Part of the store's contract, kept by every back end. Must not know how jobs are removed.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits of the history; None is without limit. `days`: age of done jobs; `jobs`: done jobs; `bytes`: output."""

    days: float | None = None
    jobs: int | None = None
    bytes: int | None = None


@dataclass(slots=True)
class HistorySize:
    """How many done jobs the history holds, and how many bytes of output they wrote."""

    jobs: int
    bytes: int
