"""How many jobs are in which state: kept in memory by SQLite, read from time to time with PostgreSQL."""
