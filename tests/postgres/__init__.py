"""What only a cluster has: a database that several nodes share. `tests/store` has what both back ends do."""
