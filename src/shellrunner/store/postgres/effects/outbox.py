"""What this node reports to the others after its commits, by NOTIFY: gathered for a moment, but for queued jobs.

Owned by the store, which runs it as a task. A notification says only that something has changed, and may be lost. It
is sent outside of the transactions that it is about: a NOTIFY in one lets all others wait for its commit. Must not
know what the others do with it.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from hashlib import sha256
from random import choices, sample
from typing import Any, Final

import psycopg

from shellrunner.model import State
from shellrunner.store.postgres.engine.connection_thread import PostgresThread
from shellrunner.store.postgres.node_config import Peer
from shellrunner.store.transition import Transitions

NODES_CHANNEL: Final = "shellrunner_nodes"
_GATHER_DELAY: Final = 0.04  # seconds
_MAX_JOBS: Final = 350  # ids of each kind in one notification, which PostgreSQL limits to 8000 bytes
_MAX_UNSURE: Final = 2  # nodes that are woken though they seem to have no free place
_MAX_PENDING: Final = 5_000  # changed jobs; beyond, the others have to read everything again
_SEND: Final = "SELECT pg_notify(channel, content) FROM unnest(%s::text[], %s::text[]) AS note (channel, content)"
_WAKE: Final = """SELECT pg_notify(channel, '{"wake": 1}') FROM unnest(%s::text[]) AS note (channel),
    (SELECT set_config('synchronous_commit', 'off', true) OFFSET 0) AS without_waiting"""
CHANNEL: Final = "'shellrunner_' || left(encode(sha256(convert_to({}, 'UTF8')), 'hex'), 12)"  # as `channel_of`
_SEND_CANCELLED: Final = f"""SELECT pg_notify({CHANNEL.format("host")}, '{{"cancel": 1}}')
    FROM (SELECT DISTINCT host FROM jobs WHERE id = ANY(%s) AND state = 'running' AND host <> %s) AS hosts"""  # noqa: S608


class Flag(StrEnum):
    """What has changed beside jobs."""

    CALLBACKS = "callbacks"
    SETTINGS = "settings"  # pauses, limits of queues, hosts
    SESSIONS = "sessions"
    EVERYTHING = "everything"
    LEAVING = "leaving"  # the node that says so is being stopped


def channel_of(node: str) -> str:
    """Return the channel that only this node listens to; a channel's name may have 63 bytes."""
    return f"shellrunner_{sha256(node.encode()).hexdigest()[:12]}"


class Outbox:
    """Sends notifications. `peers`: the other nodes that live; while there are none, nothing is sent."""

    def __init__(self, node: str, thread: PostgresThread, peers: Callable[[], Sequence[Peer]]) -> None:
        self._node, self._thread, self._peers = node, thread, peers
        self._jobs: dict[int, None] = {}
        self._flags: set[Flag] = set()
        self._commands: dict[int, None] = {}
        self._cancelled: set[int] = set()
        self._notes: list[tuple[str, str]] = []  # that are sent at once
        self.sent = 0
        self._wake = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._sent_at = 0.0

    def add(self, transitions: Transitions) -> None:
        """Report to the others what a commit did to jobs."""
        if not self._peers():
            return
        for each in transitions:
            self._jobs[each.job_id] = None
            if each.after is State.DONE and each.has_dependents:
                self._flags.add(Flag.CALLBACKS)
            elif each.before is State.RUNNING and each.after is State.RUNNING:
                self._cancelled.add(each.job_id)
                self._is_urgent.set()
        if len(self._jobs) > _MAX_PENDING:
            self._jobs.clear()
            self._flags.add(Flag.EVERYTHING)
        # Somebody may wait for an end: it is gathered only with what comes soon after another notification.
        if self._is_idle() and any(each.after is State.DONE for each in transitions):
            self._is_urgent.set()
        self._wake.set()

    def _is_idle(self) -> bool:
        return time.monotonic() - self._sent_at >= _GATHER_DELAY

    def add_output(self, job_ids: Iterable[int]) -> None:
        """Report to the others that these jobs have more output."""
        if self._peers():
            self._jobs.update(dict.fromkeys(job_ids))
            self._wake.set()

    def add_commands(self, job_ids: Iterable[int]) -> None:
        """Report to the others that more is known, or something else, of the commands of these jobs."""
        if self._peers():
            self._commands.update(dict.fromkeys(job_ids))
            self._wake.set()

    def add_flag(self, flag: Flag) -> None:
        """Report to the others that something has changed beside jobs."""
        if self._peers():
            self._flags.add(flag)
            self._is_urgent.set()
            self._wake.set()

    def waking(self, transitions: Transitions) -> tuple[str, Sequence[Any]] | None:
        """Return the statement that wakes nodes with free places, one for each job that is queued by then.

        Used on the writer's thread, which sends it behind the COMMIT of these transitions: that is sooner than by the
        connection of this class. It is a transaction of its own, which does not wait for the disk.
        """
        queues: list[str] = []
        for each in transitions:
            if each.after is State.QUEUED:
                queues.append(each.queue)
            elif each.before is State.QUEUED and each.after is State.RUNNING and queues:
                queues.pop()
        if not (chosen := self._choose(queues)):
            return None
        self.sent += len(chosen)
        return _WAKE, [[channel_of(name) for name in chosen]]

    def _choose(self, queues: Sequence[str]) -> set[str]:
        peers = [peer for peer in self._peers() if peer.name != self._node] if queues else []
        free = [peer for peer in peers if peer.claims and peer.free > 0]
        chosen: set[str] = set()
        for queue in queues[: sum(peer.free for peer in free)]:
            if able := [peer for peer in free if peer.runs(queue)]:
                chosen.add(choices(able, [peer.free for peer in able])[0].name)  # noqa: S311  not a secret
        for queue in set(queues):  # nobody was free at the last renewal, seconds ago: somebody may be by now
            if not any(peer.runs(queue) for peer in free):
                able = [peer for peer in peers if peer.runs(queue)]
                chosen.update(peer.name for peer in sample(able, min(len(able), _MAX_UNSURE)))
        return chosen

    def send_to(self, node: str, content: Mapping[str, Any]) -> None:
        """Send a notification to one node, at once."""
        if node != self._node:
            self._notes.append((channel_of(node), json.dumps(content)))
            self._is_urgent.set()
            self._wake.set()

    async def run(self) -> None:
        """Send what was added, until it is cancelled."""
        self.add_flag(Flag.SETTINGS)  # by which the others learn of this node
        while True:
            await self._wake.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_DELAY):
                    await self._is_urgent.wait()
            await self.flush()

    async def flush(self) -> None:
        """Send what was added; what cannot be sent is lost, as notifications may be."""
        self._wake.clear()
        self._is_urgent.clear()
        self._sent_at = time.monotonic()
        notes, self._notes = self._notes, []
        cancelled, self._cancelled = self._cancelled, set()
        if self._jobs or self._flags or self._commands:
            jobs, self._jobs = [*self._jobs], {}
            commands, self._commands = [*self._commands], {}
            flags, self._flags = sorted(self._flags), set()
            for start in range(0, max(len(jobs), len(commands), 1), _MAX_JOBS):
                content = {"from": self._node, "jobs": jobs[start : start + _MAX_JOBS], "flags": flags}
                if part := commands[start : start + _MAX_JOBS]:
                    content["commands"] = part
                notes.append((NODES_CHANNEL, json.dumps(content)))
                flags = []
        if notes or cancelled:
            with suppress(psycopg.Error):
                await self._thread.run(lambda thread: self._send(thread, notes, cancelled))

    def _send(self, thread: PostgresThread, notes: list[tuple[str, str]], cancelled: set[int]) -> None:
        try:
            if cancelled:
                thread.connection.execute(_SEND_CANCELLED, ([*cancelled], self._node))
            if notes:
                self.sent += len(notes)
                thread.connection.execute(_SEND, ([channel for channel, _ in notes], [text for _, text in notes]))
        except psycopg.Error:
            thread.drop()
            raise
