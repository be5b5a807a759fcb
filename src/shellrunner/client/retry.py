"""Retry of requests with exponential backoff, until a deadline.

One `Retry` per request or stream; the policy is the connection's. Must not know HTTP.
"""

from collections.abc import Container
from typing import Final, Protocol

from shellrunner.client.client_error import ClientError

_INITIAL_DELAY, _MAX_DELAY = 0.05, 2.0  # seconds
_JITTER: Final = (0.5, 1.0)  # clients that lost the same server do not all return at once


class RetryPolicy(Protocol):
    """Decides which errors are retried and for how long."""

    @property
    def retry_for(self) -> float:
        """Seconds from the first error of a series until the last error is raised."""

    def is_retryable(self, error: ClientError) -> bool:
        """Return whether another attempt may succeed."""

    def report_retry(self, error: ClientError) -> None:
        """Notify the user that the request is about to be retried."""

    def time(self) -> float:
        """Return the seconds of a monotonic clock."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class Retry:
    """The attempts of one request: growing delays until `retry_for` seconds have passed."""

    def __init__(self, policy: RetryPolicy, transient_kinds: Container[str] = ()) -> None:
        """`transient_kinds` are the kinds of error that are retried in addition to those of the policy."""
        self._policy, self._transient_kinds = policy, transient_kinds
        self._deadline: float | None = None
        self._delay = _INITIAL_DELAY

    def reset(self) -> None:
        """Forget earlier errors: the next one begins a new series."""
        self._deadline, self._delay = None, _INITIAL_DELAY

    async def wait_or_raise(self, error: ClientError) -> None:
        """Wait before the next attempt.

        Raises:
            ClientError: `error` itself, if it is not retryable or the deadline has passed.
        """
        now = self._policy.time()
        self._deadline = self._deadline or now + self._policy.retry_for
        is_retryable = error.kind in self._transient_kinds or self._policy.is_retryable(error)
        if not is_retryable or now >= self._deadline:
            raise error
        self._policy.report_retry(error)
        await self.backoff()

    async def backoff(self) -> None:
        """Wait; each delay is twice the previous one, up to a maximum."""
        import random  # noqa: PLC0415  most calls are never retried

        await self._policy.sleep(self._delay * random.uniform(*_JITTER))  # noqa: S311  not a secret
        self._delay = min(self._delay * 2, _MAX_DELAY)
