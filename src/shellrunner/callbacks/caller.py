"""Whose result is sent when: what is due is tried, a few at a time, and again later if it was not taken.

Owned by the composition root, which runs it as a part of the service. What must last is the store's: the process may
go between any two lines, and a result is then sent again, under the same id. A bug in here ends the process loudly.
"""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

import aiohttp

from shellrunner import results
from shellrunner.callbacks import delivery, envelope
from shellrunner.clock import Millis, now_ms
from shellrunner.config import CallbackSettings
from shellrunner.errors import NoSuchJob, ResultGone, StoreUnavailable
from shellrunner.model import Job
from shellrunner.store import Callbacks, DueCallback, Subscription
from shellrunner.wire import json_codec

log = logging.getLogger("shellrunner.callbacks")

AT_ONCE: Final = 8  # tries
AT_ONE_HOST: Final = 4  # so that others have a place while one hangs
_MOST_REST: Final = 30.0  # seconds until the clock is read again: it may have been set
_REST_WHILE_DUE: Final = 1.0  # seconds, while what is due already has no place
_AGAIN: Final = 1.0  # seconds until a history that could not be read or written is asked again


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long a try may take, and when the next one follows: `first` seconds later, then twice that, up to `most`,
    until `limit` after the result was first due."""

    patience: float = delivery.PATIENCE
    first: float = 5.0
    most: float = 3600.0
    limit: float = 86_400.0

    def retry_at(self, due: DueCallback, now: Millis) -> Millis | None:
        """When the next try is due after this one failed at `now`; None: it was the last."""
        pause = min(self.first * 2.0 ** min(due.tries, 64), self.most)
        moment = now + round(pause * 1000)
        return moment if moment <= due.since + self.limit * 1000 else None


class CallbackSender:
    """Runs until it is cancelled; a try that is under way then is made again after the next start."""

    def __init__(self, store: Callbacks, callbacks: CallbackSettings, schedule: Schedule | None = None) -> None:
        """Send the store's results to the hosts that config names, and to no others."""
        self._store, self._callbacks, self._schedule = store, callbacks, schedule or Schedule()
        self._trying: dict[int, str] = {}  # jobs, and the host where each is tried
        self._tried: set[int] = set()  # of these, whose try is over: they count until what is due is read anew
        self._look = asyncio.Event()

    async def run(self) -> None:
        """Send whatever is due, and wait for more."""
        with self._store.watch_callbacks() as bell:
            async with delivery.session(self._schedule.patience) as client, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(bell), name="callbacks come due")
                while True:
                    self._look.clear()
                    try:
                        await self._begin(client, tasks)
                        pause = await self._pause()
                    except StoreUnavailable:
                        pause = _AGAIN  # whoever writes it down says so; what is due stays due
                    await self._rest(pause)

    async def _listen(self, bell: Subscription) -> None:
        while True:
            await bell.wait()
            self._look.set()

    async def _begin(self, client: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        """Begin the tries that are due, as far as there are places: so many in all, so many at one host."""
        for job in self._tried:
            del self._trying[job]
        self._tried.clear()
        hosts = Counter(self._trying.values())
        if hosts.total() == AT_ONCE:
            return
        full = [host for host, tries in hosts.items() if tries == AT_ONE_HOST]
        for due in await self._store.due_callbacks(AT_ONCE, full):
            host = _host(due.job)
            if due.job.id in self._trying or hosts.total() == AT_ONCE:
                continue
            if hosts[host] == AT_ONE_HOST:
                self._look.set()  # it is full by now: look again, beyond what is due there
                continue
            hosts[host] += 1
            self._trying[due.job.id] = host
            tasks.create_task(self._try(client, due), name=f"callback {due.job.id}")

    async def _pause(self) -> float:
        """After how many seconds to look again, if nothing happens before."""
        upcoming = await self._store.next_callback_at()
        if upcoming is None:
            return _MOST_REST
        seconds = (upcoming - now_ms()) / 1000
        return min(seconds, _MOST_REST) if seconds > 0 else _REST_WHILE_DUE

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._look.wait()
        except TimeoutError:
            pass

    async def _try(self, client: aiohttp.ClientSession, due: DueCallback) -> None:
        try:
            await self._record(due, *await self._send(client, due))
        except NoSuchJob:
            pass  # deleted, and its callback with it
        finally:
            self._tried.add(due.job.id)
            self._look.set()

    async def _send(self, client: aiohttp.ClientSession, due: DueCallback) -> tuple[str | None, Millis | None]:
        """Why it was not taken (None: it was), and when to try again."""
        host = _host(due.job)
        if host not in self._callbacks.hosts:
            return f"config's callbacks.hosts does not name {host} any more", None
        try:
            document = await results.document(self._store, results.last_attempt(due.job), results.MAX_LISTED_BYTES)
        except ResultGone:
            return "the result was deleted before it was delivered", None
        except StoreUnavailable as unavailable:
            return unavailable.detail, self._schedule.retry_at(due, now_ms())
        error = await self._post(client, due.job, json_codec.dumps(document))
        return error, self._schedule.retry_at(due, now_ms())

    async def _post(self, client: aiohttp.ClientSession, job: Job, content: bytes) -> str | None:
        # Ids of jobs begin anew with each history, so its id is in it too.
        message = f"{self._store.history_id}-{job.id}"
        headers = envelope.headers(message, int(time.time()), content, self._callbacks.secret)
        return await delivery.deliver(client, _url(job), _host(job), content, headers)

    async def _record(self, due: DueCallback, error: str | None, retry_at: Millis | None) -> None:
        if error is not None and retry_at is None:
            log.warning("a callback failed for good", extra={"job": due.job.id, "reason": error})
        while True:
            try:
                return await self._store.record_callback_try(due.job.id, error=error, retry_at=retry_at)
            except StoreUnavailable:
                await asyncio.sleep(_AGAIN)


def _url(job: Job) -> str:
    assert job.spec.notify is not None  # noqa: S101  else it would not be due
    return job.spec.notify.url


def _host(job: Job) -> str:
    assert job.spec.notify is not None  # noqa: S101  else it would not be due
    return job.spec.notify.host
