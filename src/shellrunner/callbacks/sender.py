"""Deliver due callbacks, a few at a time, and retry with exponential backoff.

Owned by the composition root, which runs it as a background task. All state is in the store: the process may end
between any two lines, and a result is then sent again, under the same id. A bug here ends the process loudly. Must
not know SQL, or how a request is sent.
"""

import asyncio
import logging
import ssl
from collections import Counter
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver

from shellrunner import results
from shellrunner.callbacks import delivery, webhook_headers
from shellrunner.callbacks.addresses import AddressPolicy
from shellrunner.callbacks.delivery import DeliveryOptions
from shellrunner.clock import Millis, now_ms
from shellrunner.config import CallbackSettings
from shellrunner.errors import NoSuchJob, ResultGone, StoreUnavailable
from shellrunner.model import Job
from shellrunner.store import Callbacks, DueCallback, Subscription
from shellrunner.wire import json_codec

log = logging.getLogger("shellrunner.callbacks")

MAX_TRIES: Final = 8  # at the same time
MAX_TRIES_PER_HOST: Final = 4  # so that one that does not respond leaves capacity for the others
_MAX_POLL_INTERVAL: Final = 30.0  # seconds until the clock is read again: it may have been set
_BUSY_POLL_INTERVAL: Final = 1.0  # seconds, while something is due and there is no capacity
_RETRY_DELAY: Final = 1.0  # seconds, after the history could not be read or written


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """The timeout of a try and the delay before the next one, in seconds.

    The delay starts at `first_delay` and doubles up to `max_delay`, until `retry_for` after the result was first due.
    """

    timeout: float = delivery.TIMEOUT
    first_delay: float = 5.0
    max_delay: float = 3600.0
    retry_for: float = 86_400.0

    def retry_at(self, due: DueCallback, now: Millis, seen_now: Millis | None = None) -> Millis | None:
        """Return when to try again after a try that failed at `now`; None if it was the last.

        `seen_now`, if it is not the same: the time by which it is decided whether to give up.
        """
        delay = round(min(self.first_delay * 2.0 ** min(due.tries, 64), self.max_delay) * 1000)
        age = (now if seen_now is None else seen_now) - due.since
        return now + delay if age + delay <= self.retry_for * 1000 else None


class CallbackSender:
    """Runs until it is cancelled; a try in progress is then repeated after the next start."""

    def __init__(
        self,
        store: Callbacks,
        callbacks: CallbackSettings,
        schedule: RetrySchedule | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Send results to the hosts that the configuration names, and to no others; None: the system's resolver."""
        self._store, self._callbacks, self._schedule = store, callbacks, schedule or RetrySchedule()
        self._policy, self._resolver = AddressPolicy(callbacks.networks), resolver
        self._trying: dict[int, str] = {}  # job → host
        self._tried: set[int] = set()  # of these, whose try is over: they count until the due ones are read again
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Send what is due, and wait for more."""
        resolver = self._resolver or aiohttp.DefaultResolver()
        # Not aiohttp's default context, which has no CA certificates here (`aiohttp_import`). At the start, because
        # later there may be no descriptor to read the certificates; 20 ms, for those who configured callbacks.
        tls = ssl.create_default_context() if self._callbacks.hosts else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        options = DeliveryOptions(self._policy, resolver, tls, self._schedule.timeout)
        with self._store.watch_callbacks() as subscription:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._wake_on(subscription), name="callback notifications")
                while True:
                    self._wake.clear()
                    try:
                        await self._start_tries(options, tasks)
                        pause = await self._poll_interval()
                    except StoreUnavailable:
                        pause = _RETRY_DELAY  # logged by the health check; what is due stays due
                    await self._wait(pause)

    async def _wake_on(self, subscription: Subscription) -> None:
        while True:
            await subscription.wait()
            self._wake.set()

    async def _start_tries(self, options: DeliveryOptions, tasks: asyncio.TaskGroup) -> None:
        """Start the tries that are due, within the limits: in all, and for each host."""
        for job in self._tried:
            del self._trying[job]
        self._tried.clear()
        hosts = Counter(self._trying.values())
        if hosts.total() == MAX_TRIES:
            return
        full = [host for host, tries in hosts.items() if tries == MAX_TRIES_PER_HOST]
        for due in await self._store.due_callbacks(MAX_TRIES, full):
            host = _host(due.job)
            if due.job.id in self._trying or hosts.total() == MAX_TRIES:
                continue
            if hosts[host] == MAX_TRIES_PER_HOST:
                self._wake.set()  # the host is at its limit by now: look again, beyond what is due there
                continue
            hosts[host] += 1
            self._trying[due.job.id] = host
            tasks.create_task(self._try(options, due), name=f"callback {due.job.id}")

    async def _poll_interval(self) -> float:
        """Return after how many seconds to look again without a notification."""
        upcoming = await self._store.next_callback_at()
        if upcoming is None:
            return _MAX_POLL_INTERVAL
        seconds = (upcoming - now_ms()) / 1000
        return min(seconds, _MAX_POLL_INTERVAL) if seconds > 0 else _BUSY_POLL_INTERVAL

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _try(self, options: DeliveryOptions, due: DueCallback) -> None:
        try:
            await self._record(due, *await self._send(options, due))
        except NoSuchJob:
            pass  # deleted, with its callback
        finally:
            self._tried.add(due.job.id)
            self._wake.set()

    async def _send(self, options: DeliveryOptions, due: DueCallback) -> tuple[str | None, Millis | None]:
        """Send the result; return why it was not delivered (None if it was), and when to try again (None: never)."""
        host = _host(due.job)
        if host not in self._callbacks.hosts:
            return f"{host} is no longer in the setting callbacks.hosts", None
        try:
            document = await results.document(self._store, results.last_attempt(due.job), results.MAX_LISTED_BYTES)
        except ResultGone:
            return "the result was deleted before it was delivered", None
        except StoreUnavailable as unavailable:
            return unavailable.detail, self._retry_at(due)
        error = await self._post(options, due.job, json_codec.dumps(document))
        return error, self._retry_at(due)

    def _retry_at(self, due: DueCallback) -> Millis | None:
        return self._schedule.retry_at(due, now_ms(), self._store.seen_now())

    async def _post(self, options: DeliveryOptions, job: Job, content: bytes) -> str | None:
        # Job ids start at 1 in each history, so the message id contains the history's.
        message_id = f"{self._store.history_id}-{job.id}"
        headers = webhook_headers.webhook_headers(message_id, now_ms() // 1000, content, self._callbacks.secret)
        return await delivery.deliver(options, _url(job), _host(job), content, headers)

    async def _record(self, due: DueCallback, error: str | None, retry_at: Millis | None) -> None:
        if error is not None and retry_at is None:
            log.warning("callback failed for good", extra={"job": due.job.id, "reason": error})
        while True:
            try:
                return await self._store.record_callback_try(due.job.id, error=error, retry_at=retry_at)
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_DELAY)


def _url(job: Job) -> str:
    assert job.spec.notify is not None  # noqa: S101  else it would not be due
    return job.spec.notify.url


def _host(job: Job) -> str:
    assert job.spec.notify is not None  # noqa: S101  else it would not be due
    return job.spec.notify.host
