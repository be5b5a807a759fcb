"""The consequences of a commit at this node: change log, notifications, owners, timer, and what the others learn.

Owned by the store, on the event loop's thread. What other nodes commit arrives here too, as ids of jobs only. Must
not know which unit made a transition, or for which caller.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from shellrunner.model import Delivery, Ending, State
from shellrunner.store.change_log import InMemoryChangeLog
from shellrunner.store.notifications import Notifications, Topic
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.output.spill import SpillRemover
from shellrunner.store.postgres.effects.outbox import Flag, Outbox
from shellrunner.store.postgres.node.claim_queue import ClaimQueue
from shellrunner.store.queues import Pauses
from shellrunner.store.transition import Transition, Transitions


@dataclass(slots=True)
class NodeEffects:
    """The `CommitListener` of this node.

    owners: who has claimed each job that this node runs. endings, callback_tries: of this node's commits.
    """

    owners: dict[int, SlotOwner]
    changes: InMemoryChangeLog
    notifications: Notifications
    waiting: ClaimQueue
    spill: SpillRemover
    outbox: Outbox
    on_settings_changed: Callable[[], None]
    on_due: Callable[[int], None]
    on_changed_elsewhere: Callable[[int], None]
    on_followed: Callable[[Iterable[int], str], None]
    on_command_changed: Callable[[int], None] = lambda _: None
    notes_received: int = 0
    endings: Counter[tuple[str, Ending]] = field(default_factory=Counter)
    callback_tries: Counter[Delivery] = field(default_factory=Counter)

    # Of this node -----------------------------------------------------------------------------------------------

    def committed(self, transitions: Transitions) -> None:
        """Apply the consequences of each transition; look for jobs if one may start that could not before."""
        may_start = False
        for transition in transitions:
            self._apply(transition)
            may_start |= transition.after is State.QUEUED or transition.before is State.RUNNING
        self.outbox.add(transitions)
        if may_start and self.waiting.has_backlog:
            self.waiting.look()

    def pauses_committed(self, pauses: Pauses) -> None:
        """Follow a change of the pauses, or of limits."""
        self.settings_changed()
        self.outbox.add_flag(Flag.SETTINGS)

    def forget_owner(self, job_id: int, token: str) -> SlotOwner | None:
        """Return the owner, and have output be found by the row, which is right before and after the commit."""
        owner = self.owners.get(job_id)
        if owner is None or owner.token != token:
            return None
        self.notifications.notify(job_id)
        del self.owners[job_id]
        return owner

    def hosts_changed(self) -> None:
        """Follow that a host is drained, resumed or removed: other jobs may start, at other places."""
        self.settings_changed()
        self.outbox.add_flag(Flag.SETTINGS)

    def hosts_judged(self, job_ids: Iterable[int]) -> None:
        """Follow that the host of these running jobs is unreachable, or is reachable again."""
        ids = list(job_ids)
        self.changed_elsewhere(ids)
        self.outbox.add_output(ids)
        self.outbox.add_flag(Flag.SETTINGS)

    def host_returned(self) -> None:
        """Follow that this node is reachable again, after it had been judged not to be."""
        self.hosts_judged([*self.owners])

    def met_another(self) -> None:
        """Follow that this node is not alone any more: what it did while it thought so, it has not reported."""
        self.outbox.add_flag(Flag.EVERYTHING)

    def leaving(self) -> None:
        """Follow that this node is being stopped: the others wake it no more."""
        self.outbox.add_flag(Flag.LEAVING)

    def callback_try_committed(self, outcome: Delivery | None) -> None:
        """Count a try to send a result."""
        if outcome is not None:
            self.callback_tries[outcome] += 1

    def commands_unwanted(self, hosts: Iterable[str]) -> None:
        """Follow that commands of jobs that are lost, or deleted, are to be ended on these hosts."""
        for host in set(hosts):
            self.outbox.send_to(host, {"cancel": 1})
            self.notifications.notify(Topic.CANCEL_REQUESTS)

    def command_changed(self, job_id: int) -> None:
        """Follow a change of a running command that no transition makes, and no row records."""
        if job_id in self.owners:
            self._changed(job_id)
            self.on_command_changed(job_id)

    def _apply(self, transition: Transition) -> None:
        job_id, before, after = transition.job_id, transition.before, transition.after
        if transition.owner is not None:
            self.owners[job_id] = transition.owner
        elif before is State.RUNNING and after is not State.RUNNING:
            self.owners.pop(job_id, None)
        if before is State.DONE:
            if transition.size is not None:
                self.spill.discard(job_id, transition.tokens)
        elif after is State.DONE:
            if transition.ending is not None:
                self.endings[transition.queue, transition.ending] += 1
        elif after is State.WAITING and transition.due is not None:
            self.on_due(transition.due)
        self.changes.append(job_id)
        self.notifications.publish(transition)

    # Of other nodes ---------------------------------------------------------------------------------------------

    def note_received(self, node: str, note: dict[str, Any]) -> None:
        """Follow what another node has reported."""
        if note.get("from") == node:
            return
        self.notes_received += 1
        if "wake" in note:
            self.waiting.look()
        if "cancel" in note:
            self.notifications.notify(Topic.CANCEL_REQUESTS)
        if "follow" in note:
            self.on_followed(note["follow"], note["from"])
        for job_id in note.get("output") or ():
            self.notifications.notify(job_id)
        flags = note.get("flags") or ()
        self.changed_elsewhere(note.get("jobs") or ())
        if Flag.CALLBACKS in flags:
            self.notifications.notify(Topic.CALLBACKS)
        if Flag.SETTINGS in flags:
            self.settings_changed()
        if Flag.SESSIONS in flags:
            self.notifications.notify(Topic.SESSIONS)

    def changed_elsewhere(self, job_ids: Iterable[int]) -> None:
        """Follow changes of jobs that another node has committed."""
        any_changed = False
        for job_id in job_ids:
            self.changes.append(job_id)
            self.notifications.notify(job_id)
            self.on_changed_elsewhere(job_id)
            any_changed = True
        if any_changed:
            self.notifications.notify(Topic.ALL_JOBS)

    def notes_missed(self) -> None:
        """Have everybody read again: it is not known what has changed."""
        self.changes.forget()
        self.notifications.notify_all()
        self.settings_changed()
        self.waiting.look()

    def settings_changed(self) -> None:
        """Follow a change of pauses, limits or hosts."""
        self.on_settings_changed()
        self.waiting.look()

    def _changed(self, job_id: int) -> None:
        self.changes.append(job_id)
        self.notifications.notify(job_id)
        self.notifications.notify(Topic.ALL_JOBS)
