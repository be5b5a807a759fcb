"""What follows from commits, and what the history does unasked: counts, retention, due jobs."""
