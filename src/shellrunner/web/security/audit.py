"""The audit: who asked for what, from where, and what came of it, as lines that are written or nothing is done.

Used by the gate for every request that would change something, and for every one that is refused at it. Must not know
where the lines go.
"""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any, Final, Protocol

from aiohttp import web

from shellrunner.access import Identity
from shellrunner.errors import AuditUnavailable

_PATIENCE: Final = 1.0  # seconds in which the log must take a line
_AGAIN: Final = 0.01
_SHOWN: Final = 2000  # characters of a command
_WHAT: Final[web.RequestKey[dict[str, Any]]] = web.RequestKey("what")


class AuditSink(Protocol):
    """Where the lines go."""

    def __call__(self, event: str, details: Mapping[str, Any]) -> bool:
        """Write a line; false if there is no room for it now, or nobody to take it."""


class Audit:
    """Writes for each request that would change something a line before it is done, and one after it."""

    def __init__(self, ledger: AuditSink) -> None:
        self._ledger = ledger
        self._numbers = itertools.count(1)

    async def log_request(self, request: web.Request, identity: Identity, source: str) -> int:
        """Write down who asks for what, before it is done; the number that goes with what comes of it.

        Raises:
            AuditUnavailable: it cannot be written.
        """
        number = next(self._numbers)
        details = {"request": number, "who": identity.name, "from": source, **_line_of(request)}
        patience = _PATIENCE
        while not self._ledger("asked", details):
            if patience <= 0:
                raise AuditUnavailable
            await asyncio.sleep(_AGAIN)
            patience -= _AGAIN
        return number

    def log_response(self, request: web.Request, number: int, response: web.StreamResponse) -> None:
        """Write down what came of it."""
        self._ledger("answered", {"request": number, "status": response.status, **request.get(_WHAT, {})})

    def log_rejection(self, request: web.Request, name: str | None, source: str, code: str) -> None:
        """Write down that somebody was not let in, and why; `name` is None where nobody knows who it was."""
        who = {} if name is None else {"who": name}
        self._ledger("refused", {**who, "from": source, **_line_of(request), "why": code})


def add_details(request: web.Request, **what: Any) -> None:
    """Have this stand in the line of what came of it: the job, its command; never env, stdin or a token."""
    if "command" in what:
        what["command"] = what["command"][:_SHOWN]
    request[_WHAT] = request.get(_WHAT, {}) | what


def _line_of(request: web.Request) -> dict[str, str]:
    # The query holds only what lists are filtered by; still, what is not known to be harmless is not written.
    return {"verb": request.method, "path": request.path[:_SHOWN]}
