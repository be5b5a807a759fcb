"""Statuses as they are now: what the history says of a job, and what only this process knows of it.

Used by every handler and feed that shows a status. Must not know requests.
"""

from dataclasses import replace
from typing import Final, NamedTuple

from aiohttp import web

from shellrunner.model import Blocker, CommandState, Job, JobStatus, Phase, Queued, Running
from shellrunner.store import History
from shellrunner.web.app_keys import CommandStates
from shellrunner.wire import documents, serialize


class Live(NamedTuple):
    """What a status has beyond the history: the state of a running command, or why a queued job does not start."""

    command: CommandState = CommandState()
    queued: Blocker | None = None


class StatusView:
    """Makes the documents of statuses."""

    def __init__(self, store: History, command_states: CommandStates) -> None:
        """`command_states` finds what is known of a running command."""
        self._store, self._command_states = store, command_states

    def live(self, job_id: int, phase: Phase) -> Live:
        """Return what to add for a job in this phase."""
        if isinstance(phase, Running):
            return Live(self._command_states(job_id))
        if isinstance(phase, Queued):
            return Live(queued=self._store.why_queued(phase))
        return _NOTHING

    def document(self, job: Job | JobStatus) -> documents.Status:
        """Return the status of the job as it is now."""
        return serialize.status(job, *self.live(job.id, job.phase))

    def lasting_document(self, job: Job) -> documents.Status:
        """Return the status without what makes no event when it changes: the pid, and why a queued job waits."""
        command = self.live(job.id, job.phase).command
        return serialize.status(job, replace(command, pid=None))


_NOTHING: Final = Live()
STATUS_VIEW: Final = web.AppKey("status_view", StatusView)
