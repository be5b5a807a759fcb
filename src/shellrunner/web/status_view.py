"""Statuses as they are now: what the history says of a job, and what only this process knows of it.

Used by every handler and feed that shows a status. Must not know requests.
"""

from typing import Final, NamedTuple

from aiohttp import web

from shellrunner.model import CommandState, Job, JobStatus, Pending, Phase, Queued, Running
from shellrunner.store import History
from shellrunner.store.pagination import ListedJob
from shellrunner.web.app_keys import FindCommandState
from shellrunner.wire import documents, serialize


class LiveState(NamedTuple):
    """What a status has beyond the history: the state of a running command, or why a queued job does not start."""

    command: CommandState = CommandState()
    pending: Pending | None = None


class StatusView:
    """Makes the documents of statuses."""

    def __init__(self, store: History, find_command_state: FindCommandState) -> None:
        """`find_command_state` finds what is known of a running command."""
        self._store, self._find_command_state = store, find_command_state

    def live_state(self, job_id: int, phase: Phase) -> LiveState:
        """Return what to add for a job in this phase."""
        if isinstance(phase, Running):
            return LiveState(self._find_command_state(job_id, phase.claimed))
        if isinstance(phase, Queued):
            return LiveState(pending=self._store.why_queued(phase))
        return _NOTHING

    def live_state_of(self, job: ListedJob) -> LiveState:
        """Return what to add for a job as it was read, of which nothing is parsed unless it is queued."""
        if (claimed := job.claimed) is not None:
            return LiveState(self._find_command_state(job.id, claimed))
        return self.live_state(job.id, job.status().phase) if job.is_queued else _NOTHING

    def document(self, job: Job | JobStatus) -> documents.Status:
        """Return the status of the job as it is now."""
        return serialize.status(job, *self.live_state(job.id, job.phase))

    def stable_document(self, job: Job) -> documents.Status:
        """Return the status without what makes no event when it changes: the pid, and why a queued job waits."""
        command = self.live_state(job.id, job.phase).command
        return serialize.status(job, command._replace(pid=None))


_NOTHING: Final = LiveState()
STATUS_VIEW: Final = web.AppKey("status_view", StatusView)
