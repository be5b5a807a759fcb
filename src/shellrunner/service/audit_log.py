"""The audit log among the other lines on standard error, where `audit.file` is not set.

Owned by the composition root; used by the web side. Must not know what the lines say.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from shellrunner.log import AUDIT, JsonLinesHandler

_TIMEOUT: Final = 1.0  # seconds within which a line must be written: the log's reader may be slow
_RETRY_DELAY: Final = 0.01
_PROBE_DELAY: Final = 0.05
MAX_WAITING: Final = 1000  # posted lines that are kept while they cannot be written


class AuditLog:
    """Writes the audit log's lines through the log's handler, at any level."""

    def __init__(self, handler: JsonLinesHandler) -> None:
        """Write through this handler."""
        self._handler = handler
        self._waiting: deque[tuple[str, Mapping[str, Any]]] = deque()

    async def write(self, event: str, details: Mapping[str, Any]) -> bool:
        """Write a line; return False if it could not be written as a whole within a second."""
        remaining = _TIMEOUT
        while not (self._write_waiting() and self._write(event, details)):
            if remaining <= 0:
                return False
            await asyncio.sleep(_RETRY_DELAY)
            remaining -= _RETRY_DELAY
        return True

    def post(self, event: str, details: Mapping[str, Any]) -> bool:
        """Write a line, now or with a later one; return False if too many are waiting."""
        if self._write_waiting() and self._write(event, details):
            return True
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append((event, details))
        return True

    async def reopen(self) -> None:
        """Do nothing: standard error is not a file of ours."""

    async def failure(self) -> str | None:
        """Return why a line could not be written now, not even in a second; None if it could."""
        for _ in range(round(_TIMEOUT / _PROBE_DELAY)):
            if self._handler.failure() is None:
                self._write_waiting()
                return None
            await asyncio.sleep(_PROBE_DELAY)
        return self._handler.failure()

    def _write_waiting(self) -> bool:
        while self._waiting:
            if not self._write(*self._waiting[0]):
                return False
            self._waiting.popleft()
        return True

    def _write(self, event: str, details: Mapping[str, Any]) -> bool:
        return self._handler.write(logging.INFO, event, AUDIT, details)
