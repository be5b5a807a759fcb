"""Parts that every back end is composed of: the queue of writes, counts, the timer, bulk changes."""
