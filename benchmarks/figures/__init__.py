"""The figures, in the order of the table: those of a single host, and those of clusters."""

from benchmarks.figure import Figure
from benchmarks.figures import (
    cluster_delays,
    cluster_idle,
    cluster_jobs,
    cluster_million,
    cluster_queued,
    followers,
    jobs,
    lists,
    memory,
    million,
    posts,
    reads,
    starts,
    status_streams,
    waits,
)

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

# Of clusters: they need PostgreSQL, and take as long as all others together.
CLUSTER_FIGURES: tuple[Figure, ...] = (
    *cluster_jobs.FIGURES,
    *cluster_delays.FIGURES,
    *cluster_idle.FIGURES,
    *cluster_queued.FIGURES,
    *cluster_million.FIGURES,
)
