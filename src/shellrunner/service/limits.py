"""The limits of queues and of tokens, as the store takes them.

Used by the composition root at the start, and by the reloader. Must not know how they are applied.
"""

from shellrunner.config import AuthSettings, Settings
from shellrunner.store import QueueLimit, QueueLimits, SubmitterLimit


def queue_limits(settings: Settings) -> QueueLimits:
    """Return how many jobs of each queue and each token may run at once, and how many may wait."""
    queues = {name: QueueLimit(queue.max_running, queue.max_queued) for name, queue in settings.queues.items()}
    return QueueLimits(settings.supervisor.max_queued, queues, submitter_limits(settings.auth))


def submitter_limits(auth: AuthSettings) -> dict[str, SubmitterLimit]:
    """Return the limits of the tokens that have any, by the names of their identities."""
    return {
        token.identity: SubmitterLimit(token.max_running, token.max_queued)
        for token in auth.tokens
        if token.max_running is not None or token.max_queued is not None
    }
