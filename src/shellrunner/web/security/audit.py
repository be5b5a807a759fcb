"""The audit log of requests: who asked for what, from where, and with what result.

Used by the security middleware for every request that would change something, and for every one that it rejects. Must
not know where the events are written.
"""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any, Final, Protocol

from aiohttp import web

from shellrunner.access import Identity
from shellrunner.errors import AuditUnavailable

_TIMEOUT: Final = 1.0  # seconds within which an event must be written
_RETRY_DELAY: Final = 0.01
_MAX_SHOWN: Final = 2000  # characters of a command or path
_DETAILS: Final[web.RequestKey[dict[str, Any]]] = web.RequestKey("audit details")


class AuditSink(Protocol):
    """Writes the events."""

    def __call__(self, event: str, details: Mapping[str, Any]) -> bool:
        """Write an event; return False if that is not possible at the moment."""


class Audit:
    """Logs each request that would change something before it is handled, and its response afterwards."""

    def __init__(self, sink: AuditSink) -> None:
        self._sink = sink
        self._numbers = itertools.count(1)

    async def log_request(self, request: web.Request, identity: Identity, source: str) -> int:
        """Log who asks for what, before it is handled; return the number that links the response to it.

        Raises:
            AuditUnavailable: it could not be written in time.
        """
        number = next(self._numbers)
        details = {"request": number, "who": identity.name, "from": source, **_request_line(request)}
        remaining = _TIMEOUT
        while not self._sink("request", details):
            if remaining <= 0:
                raise AuditUnavailable
            await asyncio.sleep(_RETRY_DELAY)
            remaining -= _RETRY_DELAY
        return number

    def log_response(self, request: web.Request, number: int, response: web.StreamResponse) -> None:
        """Log the response to a request."""
        self._sink("response", {"request": number, "status": response.status, **request.get(_DETAILS, {})})

    def log_rejection(self, request: web.Request, name: str | None, source: str, code: str) -> None:
        """Log that a request was rejected and why; `name` is that of its identity, as far as it is known."""
        who = {} if name is None else {"who": name}
        self._sink("rejected", {**who, "from": source, **_request_line(request), "why": code})


def add_details(request: web.Request, **details: Any) -> None:
    """Add details to the event of the response, such as the job; never values of env, stdin or a token."""
    if "command" in details:
        details["command"] = details["command"][:_MAX_SHOWN]
    request[_DETAILS] = request.get(_DETAILS, {}) | details


def _request_line(request: web.Request) -> dict[str, str]:
    # The query holds only the filters of lists; still, what is not known to be harmless is not written.
    return {"verb": request.method, "path": request.path[:_MAX_SHOWN]}
