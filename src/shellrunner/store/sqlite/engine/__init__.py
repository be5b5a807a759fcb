"""Running units of work in SQLite: connections, batches, transactions, and space for a full disk."""
