"""Clusters for the benchmarks: a PostgreSQL, nodes on it, and histories that are filled by SQL."""
