"""Consequences of commits (counts, notifications), and maintenance: retention, due jobs."""
