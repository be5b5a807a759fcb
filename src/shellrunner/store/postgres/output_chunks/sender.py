"""The sender: output of the jobs that this node runs goes to the database, where the other nodes read it.

Owned by the store, which runs it as a task; one for all jobs, on a connection of its own, so that a huge output does
not hold up other writes. Must not know what is in a chunk.

    a job runs   ── looked at after 0.25 s, then less often, down to once a second; at once while it is followed
    a job ends   ── the rest is sent before its end is recorded; nothing if its head is all of its output
    no database  ── the job goes on, its output stays in slot and files; sent when the database is back
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import psycopg

from shellrunner.errors import StoreUnavailable
from shellrunner.model import Volume
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.output.location import Recorded, SlotOwner
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import PostgresThread
from shellrunner.store.postgres.output_chunks import sending
from shellrunner.store.postgres.output_chunks.chunk_rows import Sent
from shellrunner.store.postgres.output_chunks.sending import OutgoingOutput

TICK: Final = 0.25  # seconds after which a running job is looked at first; a shorter one sends nothing before its end
_MAX_INTERVAL: Final = 1.0  # seconds between two looks at a job that nobody follows
_MIN_GAP: Final = 0.02  # seconds between two steps for a job that is followed
_POLL_INTERVAL: Final = 0.05  # seconds between two looks at one whose writes are not reported
_FOLLOWED_FOR: Final = 6.0  # seconds after which the interest of a node ends, unless it is renewed
_RETRY_DELAY: Final = 0.5  # seconds, while the database is not there
_LOST_CLAIM_INTERVAL: Final = 5.0  # seconds between two looks at a job that is not under its claim any more
_MAX_OUTPUTS: Final = 16  # in one step

OnSent = Callable[[SlotOwner | None], None]
OnFailed = Callable[[StoreUnavailable], None]


class SendNote(Protocol):
    """Sends a note to one node, at once."""

    def __call__(self, node: str, content: Mapping[str, Any], /) -> None: ...


@dataclass(frozen=True, slots=True)
class _Ending:
    """Who is called once all of an output was sent, or could not be."""

    on_sent: OnSent
    on_failed: OnFailed


@dataclass(slots=True, eq=False)
class _Schedule:
    """When an output is looked at next. is_watched: its next write is reported."""

    output: OutgoingOutput
    due: float
    interval: float = TICK
    not_before: float = 0.0
    is_watched: bool = False
    ending: _Ending | None = None


class OutputSender:
    """Sends the output of the jobs in `owners`, and of those that have ended."""

    def __init__(
        self, node: str, url: str, storage: LocalStorage, owners: Mapping[int, SlotOwner], send_note: SendNote
    ) -> None:
        self._node, self._storage, self._owners, self._send_note = node, storage, owners, send_note
        self._thread = PostgresThread(url, "store-output")
        self._adopted: frozenset[str] = frozenset()  # claims of an earlier server, which may have sent some output
        self._schedules: dict[str, _Schedule] = {}  # by claim token
        self._interest: dict[int, dict[str, float]] = {}  # by job: nodes whose clients follow it, and until when
        self._wake = asyncio.Event()
        self._is_closed = False

    # For the store ------------------------------------------------------------------------------------------------

    def has_sent_more(self, token: str, volume: Volume) -> bool:
        """Return whether more was sent under this claim than this, as far as it is known without a look."""
        schedule = self._schedules.get(token)
        sent = schedule.output.sent if schedule is not None else None
        return sent is not None and sent.volume.stored > volume.stored

    def unsent(self) -> dict[str, int]:
        """Return of how many outputs there is more than was sent, as of the last looks, by the state of the job."""
        ended = sum(schedule.ending is not None for schedule in self._schedules.values())
        running = sum(each.ending is None and not each.output.is_sent for each in self._schedules.values())
        return {"running": running, "ended": ended}

    def send_rest(
        self,
        job_id: int,
        owner: SlotOwner | None,
        recorded: Recorded,
        *,
        on_sent: OnSent,
        on_failed: OnFailed,
    ) -> None:
        """Send all of an attempt that has ended, then call `on_sent` with who ran it (None: no longer known).

        `recorded` has its token. `on_failed` is called instead if the database is not there.
        """
        token = recorded.token or ""
        if self._is_closed:
            on_failed(StoreUnavailable("the history is closed"))
            return
        schedule = self._schedules.get(token)
        if schedule is None or schedule.ending is not None:
            schedule = self._schedules[token] = _Schedule(OutgoingOutput(job_id, token, owner), 0.0)
        # A new object: a step that looks at the slot may be under way.
        before = schedule.output
        schedule.output = OutgoingOutput(job_id, token, before.owner, recorded=recorded)
        schedule.ending, schedule.due = _Ending(on_sent, on_failed), 0.0
        self._wake.set()

    def follow(self, job_ids: Iterable[int], node: str) -> None:
        """Send the output of these jobs at once for some seconds, each time with a note to this node."""
        until = time.monotonic() + _FOLLOWED_FOR
        for job_id in job_ids:
            self._interest.setdefault(job_id, {})[node] = until
            owner = self._owners.get(job_id)
            if owner is not None and (schedule := self._schedules.get(owner.token)) is not None:
                schedule.due = min(schedule.due, schedule.not_before)
        self._wake.set()

    async def run(self) -> None:
        """Send what is due, until it is cancelled."""
        self._adopted = frozenset(owner.token for owner in self._owners.values())
        while True:
            now = time.monotonic()
            wait = min([TICK, *(schedule.due - now for schedule in self._schedules.values())])
            if wait > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
            self._wake.clear()
            await self._send_due(time.monotonic())

    def close(self) -> None:
        """End the connection; what was not sent is sent by the next server."""
        self._is_closed = True
        for schedule in self._schedules.values():
            if schedule.ending is not None:
                schedule.ending.on_failed(StoreUnavailable("the history is closed"))
        self._schedules.clear()
        self._thread.close()

    async def run_unit(self, function: Callable[[PostgresThread], Any]) -> Any:
        """Run a function on the connection, between two steps."""
        return await self._thread.run(function)

    # Its steps ----------------------------------------------------------------------------------------------------

    async def _send_due(self, now: float) -> None:
        self._follow_owners(now)
        due = sorted((each for each in self._schedules.values() if each.due <= now), key=lambda each: each.due)
        due = due[:_MAX_OUTPUTS]
        if not due:
            return
        for schedule in due:
            self._watch(schedule)
        outputs = [schedule.output for schedule in due]
        try:
            await self._thread.run(lambda thread: sending.send(thread, self._storage, outputs))
        except psycopg.Error as error:
            self._failed(due, failures.unavailable(error, "output cannot be sent"))
        else:
            self._sent(due, outputs)

    def _follow_owners(self, now: float) -> None:
        """Begin with jobs that this node runs by now, and leave those that it does not run any more."""
        self._interest = {
            job_id: alive
            for job_id, nodes in self._interest.items()
            if (alive := {node: until for node, until in nodes.items() if until > now})
        }
        for job_id, owner in self._owners.items():
            if owner.token not in self._schedules:
                sent = None if owner.token in self._adopted else Sent()
                due = now if job_id in self._interest else now + TICK
                self._schedules[owner.token] = _Schedule(OutgoingOutput(job_id, owner.token, owner, sent), due)
        for token, schedule in [*self._schedules.items()]:
            owner_now = self._owners.get(schedule.output.job_id)
            if schedule.ending is None and (owner_now is None or owner_now.token != token):
                del self._schedules[token]

    def _watch(self, schedule: _Schedule) -> None:
        output = schedule.output
        if output.recorded is None and output.owner and output.job_id in self._interest and not schedule.is_watched:
            schedule.is_watched = self._storage.watch_once(output.owner, partial(self._written, schedule))

    def _written(self, schedule: _Schedule) -> None:
        schedule.is_watched = False
        schedule.due = min(schedule.due, schedule.not_before)
        self._wake.set()

    def _sent(self, due: Sequence[_Schedule], outputs: Sequence[OutgoingOutput]) -> None:
        now = time.monotonic()
        notes: defaultdict[str, list[int]] = defaultdict(list)
        for schedule, output in zip(due, outputs, strict=True):
            if output.grew:
                for node in self._interest.get(output.job_id, ()):
                    notes[node].append(output.job_id)
            if schedule.output is output:  # else it has ended during the step
                self._plan(schedule, now)
        for node, job_ids in notes.items():
            self._send_note(node, {"from": self._node, "output": job_ids})

    def _plan(self, schedule: _Schedule, now: float) -> None:
        output, ending = schedule.output, schedule.ending
        if output.failure is not None:
            self._failed([schedule], output.failure)
        elif not output.is_held and ending is None:
            schedule.due = now + _LOST_CLAIM_INTERVAL
        elif not output.is_complete and output.is_held:
            schedule.due = now
        elif ending is not None:
            del self._schedules[output.token]
            ending.on_sent(output.owner if output.is_held else None)
        elif output.job_id in self._interest:
            schedule.not_before = now + _MIN_GAP
            schedule.due = now + (TICK if schedule.is_watched else _POLL_INTERVAL)
        else:
            busy = output.grew >= sending.MAX_BATCH // 8
            schedule.interval = TICK if busy else min(2 * schedule.interval, _MAX_INTERVAL)
            schedule.due = now + schedule.interval

    def _failed(self, due: Sequence[_Schedule], error: StoreUnavailable) -> None:
        for schedule in due:
            schedule.due = time.monotonic() + _RETRY_DELAY
            if schedule.ending is not None and self._schedules.get(schedule.output.token) is schedule:
                del self._schedules[schedule.output.token]
                schedule.ending.on_failed(error)
