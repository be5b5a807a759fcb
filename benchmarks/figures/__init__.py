"""The figures, in the order of the table."""

from benchmarks.figure import Figure
from benchmarks.figures import followers, jobs, lists, memory, million, posts, reads, starts, status_streams, waits

FIGURES: tuple[Figure, ...] = (
    *jobs.FIGURES,
    *reads.FIGURES,
    *lists.FIGURES,
    *posts.FIGURES,
    *followers.FIGURES,
    *waits.FIGURES,
    *status_streams.FIGURES,
    *memory.FIGURES,
    *starts.FIGURES,
    *million.FIGURES,
)
