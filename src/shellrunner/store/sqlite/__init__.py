"""The history in one SQLite file: connections, batched transactions, schema and recovery."""
