"""Requests to a service that may be gone at any moment, and what a client knows of the jobs that it submitted."""

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.faults.chaos.jobs import Plan

PERSISTENCE: Final = 120.0  # seconds for which a client repeats a request: several faults may follow each other
# The refusals with 503 and 507 that the API documents: nothing was done, or it is not known whether it was.
_REFUSALS: Final = {
    f"/problems/{name}"
    for name in (
        "queue-full", "input-full", "keeper-silent", "store-unavailable", "shutting-down", "not-ready", "no-space",
        "outcome-unknown",
    )
}  # fmt: skip
_Response = tuple[int, Any, dict[str, str]]


class Unreachable(Exception):
    """No answer came: the connection was refused, broken, or silent for too long."""


class Rejected(Exception):
    """The request was refused with a documented 503."""


class Api:
    """Requests to the service; an answer that the API does not document is a violation."""

    def __init__(self, url: str) -> None:
        """Send requests to the service at `url`, which may come and go."""
        self._url = url
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=8, connect=3))
        self.violations: list[str] = []
        self.answers: Counter[str] = Counter()

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return self._url + path

    async def request(self, method: str, path: str, **options: Any) -> _Response:
        """Send a request once.

        Raises:
            Unreachable, Rejected.
        """
        try:
            async with self.session.request(method, self.url(path), allow_redirects=False, **options) as response:
                body = await response.read()
                content: Any = await response.json() if body and "json" in response.content_type else body
                status, headers = response.status, dict(response.headers)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.answers["unreachable"] += 1
            raise Unreachable(repr(error)) from error
        self.answers[f"{method} {status}"] += 1
        if status in (503, 507) and content.get("type") in _REFUSALS:
            raise Rejected(content["type"])
        if status >= 500:
            self.violations.append(f"{method} {path} was answered with {status}: {content}")
        return status, content, headers

    async def persist(self, method: str, path: str, **options: Any) -> _Response:
        """Send a request until it is answered."""
        for _ in retrying():
            try:
                return await self.request(method, path, **options)
            except (Unreachable, Rejected):
                await asyncio.sleep(0.05)
        raise AssertionError(f"{method} {path} was not answered within {PERSISTENCE:g} s")


def retrying() -> Any:
    """Yield until a request has been repeated for too long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PERSISTENCE
    return itertools.takewhile(lambda _: loop.time() < deadline, itertools.count())


@dataclass
class Submitted:
    """A job that was accepted, and what its client did and saw."""

    plan: Plan
    job_id: int
    after: list[int]
    not_before: int | None = None  # milliseconds of the wall clock
    cancelled: bool = False  # a cancel may have been accepted
    deleted: bool = False  # a deletion was confirmed
    seen: list[dict[str, Any]] = field(default_factory=list)  # endings that were reported before the end of the round
    given: int | None = None  # bytes of input that were taken; None: not known
    events: dict[str, bytes] | None = None  # by stream, of a follower that saw `done`
    done_event: dict[str, Any] | None = None
    followed: bytes = b""  # as plain output
    saw_end: bool = False  # of that
