"""Settings that all nodes must have in common: each node publishes digests of its own, and compares those of others.

Used by the lease, which has them in its row, and by the list of hosts. A limit is applied by the node that accepts or
claims, so nodes with different ones let different numbers of jobs in. Must not know SQL.
"""

import hashlib
import json
from collections.abc import Sequence

from shellrunner.store.queues import QueueLimits


def digests(limits: QueueLimits, lost_after: float | None) -> str:
    """Return the digests of this node's settings, by what they are of, as JSON."""
    queues = {name: [limit.max_running, limit.max_queued] for name, limit in limits.queues.items()}
    tokens = {name: [limit.max_running, limit.max_queued] for name, limit in limits.submitters.items()}
    settings = {"queues": [limits.max_queued, queues], "tokens": tokens, "lost_after": lost_after}
    return json.dumps({name: _digest(value) for name, value in settings.items()})


def differences(own: str, other: str) -> Sequence[str]:
    """Return in what another node's settings differ from this one's; what only one of them knows is not compared."""
    ours, theirs = (json.loads(text) if text else {} for text in (own, other))
    return [name for name, digest in ours.items() if theirs.get(name, digest) != digest]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
