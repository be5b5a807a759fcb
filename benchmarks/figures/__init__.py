"""The figures, in the order of the table."""

from benchmarks.figure import Figure
from benchmarks.figures import jobs, lists, reads

FIGURES: tuple[Figure, ...] = (*jobs.FIGURES, *reads.FIGURES, *lists.FIGURES)
