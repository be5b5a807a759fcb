"""Verbs that change jobs and queues. Must not know how jobs are submitted."""
