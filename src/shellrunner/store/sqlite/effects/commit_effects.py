"""The consequences of a commit: counts, change log, notifications, claims, retention, timer and search index.

Owned by the store, on the event loop's thread. Every consequence follows from the transitions. Must not know
which unit made them, or for which caller.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from shellrunner.model import Delivery, Ending, State
from shellrunner.sealing.job_keys import JobKeys
from shellrunner.store.change_log import InMemoryChangeLog
from shellrunner.store.components.due_timer import DueTimer
from shellrunner.store.components.queue_counts import QueueCounts
from shellrunner.store.notifications import Notifications, Topic
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.output.spill import SpillRemover
from shellrunner.store.query.search import Indexer
from shellrunner.store.queues import Pauses, QueueLimit
from shellrunner.store.sqlite.claim_requests import ClaimRequests
from shellrunner.store.sqlite.effects.trimmer import RetentionTrimmer
from shellrunner.store.sqlite.point_reads import PointReads
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units.queue_limits import Removed


@dataclass(frozen=True, slots=True)
class CommitEffects:
    """The `CommitListener` of this process, with the parts to which it passes each transition on.

    owners: who has claimed each running job. endings, callback_tries: counted since the history was opened.
    """

    counts: QueueCounts
    owners: dict[int, SlotOwner]
    changes: InMemoryChangeLog
    point_reads: PointReads
    notifications: Notifications
    requests: ClaimRequests
    trimmer: RetentionTrimmer
    spill: SpillRemover
    keys: JobKeys
    due_timer: DueTimer
    indexer: Indexer
    endings: Counter[tuple[str, Ending]] = field(default_factory=Counter)
    callback_tries: Counter[Delivery] = field(default_factory=Counter)

    def committed(self, transitions: Transitions) -> None:
        """Apply the consequences of each transition, then serve claims if a job may start that could not before."""
        may_start = False
        for transition in transitions:
            self._apply(transition)
            may_start |= transition.after is State.QUEUED or transition.before is State.RUNNING
        if may_start:
            self.requests.wake_if_startable()

    def pauses_committed(self, pauses: Pauses) -> None:
        """Use the new pauses; serve claims if a queue was resumed, and callbacks if the history was released."""
        released = self.counts.pauses.held and not pauses.held
        self.counts.pauses = pauses
        self.requests.wake_if_startable()
        if released:
            self.notifications.notify(Topic.CALLBACKS)
            self.trimmer.wake()
            self.keys.history_released()

    def queue_limits_committed(self, limits: Mapping[str, QueueLimit]) -> None:
        """Use the limits that are set at run time; serve claims if one was raised."""
        self.counts.limit_queues(limits)
        self.requests.wake_if_startable()

    def queue_removed(self, queue: str, removed: Removed) -> None:
        """Forget a queue and its pause."""
        self.counts.limit_queues(removed.limits)
        self.counts.remove(queue)
        self.pauses_committed(removed.pauses)

    def callback_try_committed(self, outcome: Delivery | None) -> None:
        """Count a try to send a result."""
        if outcome is not None:
            self.callback_tries[outcome] += 1

    def command_changed(self, job_id: int) -> None:
        """Follow a change of a running command that no transition makes, and no row records."""
        if job_id in self.owners:
            self.changes.append(job_id)
            self.notifications.notify(job_id)
            self.notifications.notify(Topic.ALL_JOBS)

    def _apply(self, transition: Transition) -> None:
        job_id, before, after = transition.job_id, transition.before, transition.after
        self.counts.apply(transition)
        if transition.key is not None:
            self.keys.committed(job_id, transition.key)
        if transition.owner is not None:
            self.owners[job_id] = transition.owner
        elif before is State.RUNNING and after is not State.RUNNING:
            self.owners.pop(job_id, None)
        if before is State.DONE:
            self._deleted(transition)
        elif after is State.DONE:
            self._ended(transition)
        elif after is State.WAITING and transition.due is not None:
            self.due_timer.set(transition.due)
        if before is None:
            self.indexer.job_added()
        self.changes.append(job_id)
        self.point_reads.touched(job_id)
        self.notifications.publish(transition)

    def _ended(self, transition: Transition) -> None:
        self.trimmer.added(transition.size or 0)
        self.keys.job_ended(transition.job_id)
        if transition.ending is not None:
            self.endings[transition.queue, transition.ending] += 1

    def _deleted(self, transition: Transition) -> None:
        """Follow a deleted job, or a deleted result of a job that stays."""
        self.trimmer.removed(jobs=1 if transition.after is None else 0, size=transition.size or 0)
        if transition.size is not None:  # also if it is 0: a lost job may have left more than is known
            self.spill.discard(transition.job_id, transition.tokens)
