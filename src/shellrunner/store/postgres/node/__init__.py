"""What this node knows and has: the clock of the database, keepers that wait for jobs, settings, jobs of its own."""
