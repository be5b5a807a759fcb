"""What is written to the history: each function is a unit of work that runs inside one transaction."""
