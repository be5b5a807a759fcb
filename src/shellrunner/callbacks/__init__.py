"""Send the results of jobs to the URLs in their `notify`, until they are delivered, or for a day.

Used by the composition root; `CallbackSender` is the public part. What is due is in the store (`store.Callbacks`).
Must not know `web`, `supervisor` or SQL.
"""

from shellrunner.callbacks.sender import CallbackSender, RetrySchedule

__all__ = ["CallbackSender", "RetrySchedule"]
